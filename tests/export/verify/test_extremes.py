"""Inputs at the ends of their range: black, white, constant, saturated."""

import contextlib
from pathlib import Path

import pytest
import torch
from torch import nn

from export import Exported, ExportSettings, export_model
from export.check.run import check_model
from export.convert import torch_exporter
from export.convert.convert import convert
from export.errors import ParityError
from export.interface.interface import one_input
from export.reference.determinism import reference_runs
from export.source.module import plain_preprocessing
from export.verify.extremes import check_extremes
from export.verify.layer_map import map_layers
from export.verify.model_runner import ModelRunner
from tests.export.convert.test_constants import Ink
from zoo.networks.preprocessing import Preprocessing

SIZE = (1, 8, 8)


def export(network: nn.Module, to: Path, *, raw: bool = False) -> Exported:
    """Export `network` for greyscale images."""
    settings = ExportSettings(to=to, name="n", raw=raw)
    return export_model(network.eval(), settings, preprocessing=plain_preprocessing(SIZE))


def test_every_end_of_the_range_is_compared(exported: Exported) -> None:
    """The manifest has each output on each input, within its tolerance; the report shows them."""
    checks = exported.manifest.parity.extremes
    kinds = ("black", "white", "constant", "saturated")
    assert [(check.input, check.output) for check in checks] == [
        (kind, output) for kind in kinds for output in ("logits", "probabilities")
    ]
    assert all(check.max_abs_error <= check.tolerance and not check.unreliable for check in checks)
    assert "| logits | white |" in exported.report.read_text()


def test_a_lost_epsilon_stops_the_export(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the exporter's own optimiser a white image would give NaN; the probe inputs do not show it."""
    monkeypatch.setattr(torch_exporter, "exact_constants", contextlib.nullcontext)
    with pytest.raises(ParityError, match="on an input that is white, the ONNX model's 'logits' is not finite"):
        export(Ink(1e-8), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_layer_that_has_another_tensor_stops_the_export() -> None:
    """A layer whose tensor differs only on one of these inputs is found there."""
    network = Grey().eval()
    interface = one_input((1, 8, 8), ("output",))
    model = interface.attach(convert(network, interface, 20))
    layer_map = map_layers(model, network, reference_runs(network, interface))
    assert len(check_extremes(ModelRunner(model), layer_map, network, interface)) == 4
    lift, lifted_less = (layer for layer in layer_map.layers if layer.path == "lift")
    lift.value = lifted_less.value
    with pytest.raises(ParityError, match=r"an input that is ones, the ONNX model's layer 'lift' .Lift. differs"):
        check_extremes(ModelRunner(model), layer_map, network, interface)


class Lift(nn.Module):
    """x + 1 for an input of ones, else x; and x."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        is_one = (x.amin((1, 2, 3), keepdim=True) >= 1).to(x.dtype)
        lifted = x + is_one
        return lifted, lifted - is_one


class Grey(nn.Module):
    """A network that uses both outputs of Lift."""

    def __init__(self) -> None:
        super().__init__()
        self.lift = Lift()
        self.head = nn.Linear(64, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        lifted, lifted_less = self.lift(x)
        return self.head((lifted * lifted_less).flatten(1))


def test_pixels_close_to_the_mean(tmp_path: Path) -> None:
    """Where normalisation cancels most digits of a constant image, the tolerance allows what float32 loses there."""
    torch.manual_seed(0)
    layers = (nn.Conv2d(1, 4, 3, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3, bias=False))
    close_to_128 = Preprocessing(input_size=SIZE, mean=(0.50190,), std=(0.2471,))
    settings = ExportSettings(to=tmp_path, name="n")
    exported = export_model(nn.Sequential(*layers).eval(), settings, preprocessing=close_to_128)
    checks = {(check.input, check.output): check for check in exported.manifest.parity.extremes}
    constant = checks["constant", "logits"]
    assert 0 < constant.max_abs_error <= constant.tolerance
    assert not constant.unreliable


class Reciprocal(nn.Module):
    """A network whose output is infinite for a black image."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 1 / x.mean((1, 2, 3)).reshape(-1, 1).repeat(1, 2)


def test_an_output_that_is_infinite_in_pytorch_may_be_infinite(tmp_path: Path) -> None:
    """Only values that are finite in PyTorch must be finite in the file."""
    network = nn.Sequential(Shift(), Reciprocal())
    exported = export(network, tmp_path)
    assert {check.input for check in exported.manifest.parity.extremes} >= {"black", "white"}


class Shift(nn.Module):
    """x - 1, which is 0 for a white image."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x - 1


def test_unreliable_float32_is_reported_with_both_errors(tmp_path: Path) -> None:
    """On a constant image an instance norm amplifies rounding errors: the difference is recorded, not rejected."""
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.InstanceNorm2d(4, eps=1e-30), nn.Flatten(), nn.Linear(144, 3))
    exported = export(network, tmp_path)
    unreliable = [check for check in exported.manifest.parity.extremes if check.unreliable]
    assert {"white", "constant"} <= {check.input for check in unreliable}
    assert all(check.reference_error > 0 for check in unreliable)
    assert "float32 is unreliable" in exported.report.read_text()
    assert not [failure for report in check_model(tmp_path) for failure in report.failures]
