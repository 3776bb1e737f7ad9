"""Networks whose forward branches on the height or width of the input, exported with dynamic size."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional

from export import ExportSettings, export_model
from export.errors import ConversionError
from export.source.module import plain_preprocessing

SMALL = plain_preprocessing((3, 16, 16))


class Branching(nn.Module):
    """A convolution, followed by a function of its output and of the input."""

    def __init__(self, function: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.conv, self.function = nn.Conv2d(3, 4, 3, padding=1, stride=2), function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(self.conv(x), x)


def export(function: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], to: Path) -> int:
    settings = ExportSettings(to=to, name="network", raw=True, dynamic_size=True)
    return export_model(Branching(function).eval(), settings, preprocessing=SMALL).version


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda y, x: y if x.shape[2] > 12 else -y, "only where height >= 13, not for an input of 2x3x12x69"),
        (lambda y, x: y if x.shape[2] % 3 else -y, r"only where Ne\(Mod\(height, 3\), 0\), not for an input of 2x3x54"),
        (lambda y, x: y if x.shape[2] <= x.shape[3] else -y, "only where height <= width, not for"),
        (lambda y, x: y if x.shape[0] * x.shape[2] < 900 else -y, r"only where height\*batch < 900, not for"),
        (lambda y, x: y if x.shape[2] * x.shape[3] < 400_000 else -y, r"width\*height < 400000, not for an input"),
    ],
)
def test_size_dependent(
    function: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], message: str, tmp_path: Path
) -> None:
    """A network that takes another branch at unchecked sizes is rejected, and nothing is written."""
    with pytest.raises(ConversionError, match=message):
        export(function, tmp_path / "models")
    assert not (tmp_path / "models").exists()


class Split(nn.Module):
    """A layer that iterates over the rows of its input."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat(list(x.split(1, dim=2)), dim=2)


class Inner(nn.Module):
    """A layer that branches on the height of its input."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x if x.shape[2] > 12 else -x


@pytest.mark.parametrize(
    ("inner", "message"),
    [
        (Inner(), r"in module '1' at test_dynamic_shapes_check.py:\d+: return x if .*only where height >= 25, not for"),
        (
            Split(),
            r"in module '1' at test_dynamic_shapes_check.py:\d+: return torch.cat.*only where height = \d+; batch,",
        ),
    ],
)
def test_location_of_the_branch(inner: nn.Module, message: str, tmp_path: Path) -> None:
    """The error names the layer and line of a branch inside the network, and of a size that is fixed there."""
    network = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1, stride=2), inner).eval()
    settings = ExportSettings(to=tmp_path / "models", name="network", raw=True, dynamic_size=True)
    with pytest.raises(ConversionError, match=message):
        export_model(network, settings, preprocessing=SMALL)


def padded(y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Pad to a multiple of 4, if necessary."""
    height, width = -x.shape[2] % 4, -x.shape[3] % 4
    return functional.pad(x, (0, width, 0, height)) if height or width else x


@pytest.mark.parametrize("function", [padded, lambda y, x: functional.avg_pool2d(y, 7)])
def test_harmless_guards(function: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], tmp_path: Path) -> None:
    """A branch without effect on the result, and the minimum size of a layer, are accepted."""
    assert export(function, tmp_path) == 1
