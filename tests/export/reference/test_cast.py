"""Networks of other precisions are cast to float32, and the report says what that changes."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from export import Exported, ExportSettings, export_model
from export.check.run import check_model
from export.cli.export import summary
from export.input_spec import InputSpec
from export.reference.cast import in_float32, weights_dtype
from export.source.module import plain_preprocessing

DTYPES = [torch.float64, torch.float16, torch.bfloat16]


class Net(nn.Module):
    """A network with tied weights, a buffer and a plain tensor, optionally after a function of the test."""

    def __init__(self, first: Callable[[torch.Tensor], torch.Tensor] = lambda x: x) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.again = self.conv
        self.fc = nn.Linear(4, 5)
        self.register_buffer("offset", torch.rand(3, 1, 1))
        self.scales, self.first = [torch.rand(3, 1, 1)], first

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, 3, 8, 8) to (N, 5)."""
        y = self.norm(self.conv(self.first(x - self.offset) * self.scales[0]))
        return self.fc(y.relu().mean((2, 3)))


def network(dtype: torch.dtype, first: Callable[[torch.Tensor], torch.Tensor] = lambda x: x) -> nn.Module:
    """Return a network in which every tensor has the precision `dtype`."""
    torch.manual_seed(0)
    cast = Net(first).eval().to(dtype)
    cast.scales = [scale.to(dtype) for scale in cast.scales]
    return cast


def export(given: nn.Module, to: Path) -> Exported:
    """Export a network of images of 3x8x8."""
    return export_model(given, ExportSettings(to=to, name="n"), preprocessing=plain_preprocessing((3, 8, 8)))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_export(dtype: torch.dtype, tmp_path: Path) -> None:
    """The file has the outputs of the network in float32; the difference to the one that was passed is measured."""
    given = network(dtype)
    exported = export(given, tmp_path / "models")
    cast, name = exported.manifest.parity.cast, str(dtype).removeprefix("torch.")
    assert weights_dtype(given) == dtype  # the network that was passed is unchanged
    assert (cast.dtype, [difference.output for difference in cast.differences]) == (name, ["logits", "probabilities"])
    epsilon = torch.finfo(dtype if dtype != torch.float64 else torch.float32).eps
    logits = cast.differences[0]
    assert 0 < logits.max_abs_difference < 20 * epsilon * logits.magnitude
    report = " ".join(exported.report.read_text().split())
    assert f"The network was passed in {name} and cast to float32, which changes logits by at most" in report
    assert dict(summary(exported))["precision"].startswith(f"cast from {name} to float32, which changes logits")
    assert [failure for checked in check_model(tmp_path / "models") for failure in checked.failures] == []


def test_difference(tmp_path: Path) -> None:
    """It is that of PyTorch's two results for the inputs of the comparison."""
    given = network(torch.float16)
    settings = ExportSettings(to=tmp_path, name="n", raw=True, inputs={"x": InputSpec((3, 8, 8))})
    (difference,) = export_model(given, settings).manifest.parity.cast.differences
    noise = torch.from_numpy(np.random.default_rng(2).standard_normal((2, 3, 8, 8), np.float32))
    with torch.no_grad():
        at_noise = (given(noise.half()).float() - in_float32(given)(noise)).abs().max()
    assert 0 < float(at_noise) <= difference.max_abs_difference * 1.01


def test_tied_weights() -> None:
    """A weight under two names stays one weight, and a network in float32 is not copied."""
    cast = in_float32(network(torch.float64))
    assert cast.conv.weight is cast.again.weight
    assert {tensor.dtype for tensor in (*cast.parameters(), cast.offset, cast.scales[0])} == {torch.float32}
    assert in_float32(cast) is cast


def test_network_that_does_not_run(tmp_path: Path) -> None:
    """Where the network fails in its own precision, the reason is reported instead of a difference."""

    def fails_in_half(x: torch.Tensor) -> torch.Tensor:
        if x.dtype == torch.float16:
            raise ValueError("no kernel for half")
        return x

    cast = export(network(torch.float16, fails_in_half), tmp_path).manifest.parity.cast
    assert (cast.dtype, list(cast.differences)) == ("float16", [])
    assert "the network fails on an input of 3x8x8: ValueError: no kernel for half" in cast.failure


def test_float32_has_no_note(tmp_path: Path) -> None:
    """A network in float32 is exported without a note."""
    exported = export(network(torch.float32), tmp_path / "models")
    assert not exported.manifest.parity.HasField("cast")
    assert "precision" not in dict(summary(exported))
    assert "cast to float32" not in exported.report.read_text()
