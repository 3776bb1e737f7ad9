"""Networks whose forward branches on the batch size."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from export import ExportSettings, export_model
from export.errors import ConversionError
from export.source.module import plain_preprocessing

SMALL = plain_preprocessing((3, 8, 8))


class Branching(nn.Module):
    """A network whose output depends on a condition on the batch size."""

    def __init__(self, condition: Callable[[int], bool]) -> None:
        super().__init__()
        self.head, self.condition = nn.Linear(192, 5), condition

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.head(x.flatten(1))
        return y if self.condition(x.shape[0]) else y * 0


class RowByRow(Branching):
    """A network that iterates over its batch."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.stack([self.head(row.flatten()) for row in x])


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (
            Branching(lambda count: count < 10),
            r"size of its input at test_dynamic_shapes.py:\d+: .*only where batch <= 9",
        ),
        (Branching(lambda count: count % 7 != 0), r"only where Ne\(Mod\(batch, 7\), 0\); batch must be dynamic"),
        (nn.Sequential(RowByRow(bool)), r"in module '0' at .*: return torch.stack.*only where batch = 2 \(len"),
    ],
)
def test_batch_dependent(network: nn.Module, message: str, tmp_path: Path) -> None:
    """A network with another result at an unchecked batch size is rejected, and nothing is written."""
    with pytest.raises(ConversionError, match=message):
        export_model(network.eval(), ExportSettings(to=tmp_path / "models", name="network"), preprocessing=SMALL)
    assert not (tmp_path / "models").exists()


class SingleImage(Branching):
    """A network with a branch for a batch of 1, which has the same result."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.head(x.flatten(1))
        return y if x.shape[0] != 1 else y + 0


@pytest.mark.parametrize("network", [Branching(lambda count: count >= 1), SingleImage(bool)])
def test_harmless_conditions(network: nn.Module, tmp_path: Path) -> None:
    """A condition that has the same value at all unchecked batch sizes is accepted."""
    network.eval()
    assert export_model(network, ExportSettings(to=tmp_path, name="network"), preprocessing=SMALL).version == 1
