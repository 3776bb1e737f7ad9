"""Networks in float64, with the constants that their forward makes."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional

from export import ExportSettings, export_model
from export.errors import UnsupportedNetworkError
from export.source.module import plain_preprocessing
from export.tracing.float64 import Float64Constants, float64_copy

SIZE = (3, 8, 8)


class Net(nn.Module):
    """A linear network after a function of the test, with a plain tensor."""

    def __init__(self, function: Callable[[nn.Module, torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.plain = {"weights": [torch.full((8, 8), 0.1)]}
        self.head = nn.Linear(192, 5)
        self.function = function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.function(self, x).flatten(1))


def test_constants() -> None:
    """A constant has float64 only where it would have the default float32."""
    with Float64Constants():
        made = [torch.ones(2), torch.tensor(0.1), torch.arange(3), torch.zeros(1, dtype=torch.float32), torch.eye(2)]
    assert [tensor.dtype for tensor in made] == [
        torch.float64,
        torch.float64,
        torch.int64,
        torch.float32,
        torch.float64,
    ]
    assert float(made[1]) == 0.1
    assert torch.ones(2).dtype == torch.float32


def test_plain_tensors() -> None:
    """A copy in float64 has plain attributes in float64, too; the original is unchanged."""
    network = Net(lambda _, x: x)
    copy = float64_copy(network)
    assert (copy.plain["weights"][0].dtype, network.plain["weights"][0].dtype) == (torch.float64, torch.float32)
    assert {weight.dtype for weight in copy.parameters()} == {torch.float64}


@pytest.mark.parametrize(
    "function",
    [
        lambda _, x: x.matmul(torch.ones(8, 8)),
        lambda _, x: functional.conv2d(x, torch.full((3, 3, 1, 1), 0.3)),
        lambda _, x: x @ torch.linspace(0, 1, 64).reshape(8, 8),
        lambda self, x: x @ self.plain["weights"][0],
    ],
    ids=["ones", "full", "linspace", "plain attribute"],
)
def test_a_forward_with_constants_is_exported(
    function: Callable[[nn.Module, torch.Tensor], torch.Tensor], tmp_path: Path
) -> None:
    """A constant without a dtype does not keep the network from running in float64."""
    export_model(Net(function).eval(), ExportSettings(to=tmp_path, name="n"), preprocessing=plain_preprocessing(SIZE))
    assert (tmp_path / "n" / "1" / "model.onnx").exists()


outside = torch.ones(8, 8)


def test_a_tensor_from_outside(tmp_path: Path) -> None:
    """A forward that uses a tensor which is no part of the network is rejected with its line and a remedy."""
    network = Net(lambda _, x: x @ outside).eval()
    message = r"not in float64 at test_float64.py:\d+: .*x @ outside.*register a tensor or module .* from outside"
    with pytest.raises(UnsupportedNetworkError, match=message):
        export_model(network, ExportSettings(to=tmp_path, name="n"), preprocessing=plain_preprocessing(SIZE))
