"""Networks whose forward asks for the size of its input."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from export import ExportSettings, export_model
from export.errors import ConversionError
from export.source.module import plain_preprocessing

SMALL = plain_preprocessing((3, 8, 8))


class Asking(nn.Module):
    """A network with another way for some batches."""

    def __init__(self, ask: Callable[[int], bool]) -> None:
        super().__init__()
        self.head, self.ask = nn.Linear(192, 5), ask

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.head(x.flatten(1))
        return y if self.ask(x.shape[0]) else y * 0


class Counting(Asking):
    """A network that takes its batch row by row."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.stack([self.head(row.flatten()) for row in x])


@pytest.mark.parametrize(
    ("network", "words"),
    [
        (Asking(lambda count: count < 10), r"size of its input at test_dynamic_shapes.py:\d+: .*only where batch <= 9"),
        (Asking(lambda count: count % 7 != 0), r"only where Ne\(Mod\(batch, 7\), 0\); batch must be free"),
        (nn.Sequential(Counting(bool)), r"in module '0' at .*: return torch.stack.*only where batch = 2 \(a len"),
    ],
)
def test_refused(network: nn.Module, words: str, tmp_path: Path) -> None:
    """A network that is another one at a batch at which no check runs is refused, and nothing is written."""
    with pytest.raises(ConversionError, match=words):
        export_model(network.eval(), ExportSettings(to=tmp_path / "models", name="network"), preprocessing=SMALL)
    assert not (tmp_path / "models").exists()


class Alone(Asking):
    """A network that treats a batch of 1 in another way, with the same result."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.head(x.flatten(1))
        return y if x.shape[0] != 1 else y + 0


@pytest.mark.parametrize("network", [Asking(lambda count: count >= 1), Alone(bool)])
def test_taken(network: nn.Module, tmp_path: Path) -> None:
    """A question whose answer is the same wherever no check runs is none."""
    network.eval()
    assert export_model(network, ExportSettings(to=tmp_path, name="network"), preprocessing=SMALL).version == 1
