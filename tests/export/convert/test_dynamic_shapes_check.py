"""Networks whose forward asks for the height or the width of its input, which the file leaves free."""

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


class Asking(nn.Module):
    """A convolution, and what `way` makes of its output and of the input."""

    def __init__(self, way: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.conv, self.way = nn.Conv2d(3, 4, 3, padding=1, stride=2), way

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.way(self.conv(x), x)


def export(way: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], to: Path) -> int:
    settings = ExportSettings(to=to, name="network", raw=True, dynamic_size=True)
    return export_model(Asking(way).eval(), settings, preprocessing=SMALL).version


@pytest.mark.parametrize(
    ("way", "words"),
    [
        (lambda y, x: y if x.shape[2] > 12 else -y, "only where height >= 13, not for an input of 2x3x12x69"),
        (lambda y, x: y if x.shape[2] % 3 else -y, r"only where Ne\(Mod\(height, 3\), 0\), not for an input of 2x3x54"),
        (lambda y, x: y if x.shape[2] <= x.shape[3] else -y, "only where height <= width, not for"),
        (lambda y, x: y if x.shape[0] * x.shape[2] < 900 else -y, r"only where height\*batch < 900, not for"),
        (lambda y, x: y if x.shape[2] * x.shape[3] < 400_000 else -y, r"width\*height < 400000, not for an input"),
    ],
)
def test_refused(way: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], words: str, tmp_path: Path) -> None:
    """A network that goes another way at sizes at which no check runs is refused, and nothing is written."""
    with pytest.raises(ConversionError, match=words):
        export(way, tmp_path / "models")
    assert not (tmp_path / "models").exists()


class Split(nn.Module):
    """A layer that takes its input line by line."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat(list(x.split(1, dim=2)), dim=2)


class Inner(nn.Module):
    """A layer that asks."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x if x.shape[2] > 12 else -x


@pytest.mark.parametrize(
    ("inner", "words"),
    [
        (Inner(), r"in module '1' at test_dynamic_shapes_check.py:\d+: return x if .*only where height >= 25, not for"),
        (
            Split(),
            r"in module '1' at test_dynamic_shapes_check.py:\d+: return torch.cat.*only where height = \d+; batch,",
        ),
    ],
)
def test_the_layer_and_the_line_are_named(inner: nn.Module, words: str, tmp_path: Path) -> None:
    """Of a size that a layer deep in the network decides by, and of one that it fixes."""
    network = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1, stride=2), inner).eval()
    settings = ExportSettings(to=tmp_path / "models", name="network", raw=True, dynamic_size=True)
    with pytest.raises(ConversionError, match=words):
        export_model(network, settings, preprocessing=SMALL)


def padded(y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """To a multiple of 4, where that is not so."""
    height, width = -x.shape[2] % 4, -x.shape[3] % 4
    return functional.pad(x, (0, width, 0, height)) if height or width else x


@pytest.mark.parametrize("way", [padded, lambda y, x: functional.avg_pool2d(y, 7)])
def test_taken(way: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], tmp_path: Path) -> None:
    """A question whose answer changes nothing is none, and a layer needs its least size."""
    assert export(way, tmp_path) == 1
