"""Networks whose forward asks whether it is being exported."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.compiler import is_compiling

from export import ExportSettings, export_model
from export.errors import ParityError
from export.source.module import plain_preprocessing
from export.tracing.arguments import Arguments
from export.verify.export_flags import export_flag

Condition = Callable[[], bool]
SIZE = (3, 8, 8)
CONDITIONS: dict[str, tuple[Condition, str]] = {
    "exporting": (lambda: torch.compiler.is_exporting(), "torch.compiler.is_exporting()"),
    "imported": (lambda: is_compiling(), "torch.compiler.is_compiling()"),
    "onnx": (lambda: torch.onnx.is_in_onnx_export(), "torch.onnx.is_in_onnx_export()"),
}


class Branch(nn.Module):
    """Computes `exported` during an export, else `eager`."""

    def __init__(self, condition: Condition, exported: nn.Module, eager: nn.Module) -> None:
        super().__init__()
        self.condition, self.exported, self.eager = condition, exported, eager

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.exported(x) if self.condition() else self.eager(x)


def network(branch: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(branch, nn.Flatten(), nn.Linear(192, 5)).eval()


def export(branch: nn.Module, to: Path) -> None:
    export_model(network(branch), ExportSettings(to=to, name="n", raw=True), preprocessing=plain_preprocessing(SIZE))


@pytest.mark.parametrize(("condition", "name"), CONDITIONS.values(), ids=CONDITIONS)
def test_another_branch_in_the_file(condition: Condition, name: str, tmp_path: Path) -> None:
    """If the file holds another branch than PyTorch runs, the error names the question, its module and its line."""
    with pytest.raises(ParityError) as caught:
        export(Branch(condition, nn.Tanh(), nn.Sigmoid()), tmp_path)
    assert f"branches on {name} in module '0' at test_export_flags.py:" in str(caught.value)
    assert "remove that branch" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_branches_that_differ_far_out_of_range_only(tmp_path: Path) -> None:
    """A clamp that only PyTorch runs is missed by no check, even if no usual input reaches it."""
    with pytest.raises(ParityError, match=r"branches on torch.compiler.is_exporting.*far out of the usual range"):
        export(Branch(CONDITIONS["exporting"][0], nn.Identity(), nn.Hardtanh(-100.0, 100.0)), tmp_path)


class Checked(nn.Module):
    """Rejects inputs that are no images, which a graph cannot."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not torch.compiler.is_exporting() and float(x.abs().max()) > 100:
            raise ValueError("not images")
        return x


def test_a_branch_that_only_checks_is_exported(tmp_path: Path) -> None:
    """A network that rejects some inputs itself is exported."""
    export(Checked(), tmp_path)
    assert (tmp_path / "n" / "1" / "model.onnx").exists()


def test_no_question() -> None:
    """A network without such a question is not blamed."""
    assert export_flag(network(nn.ReLU()), Arguments((torch.zeros(1, *SIZE),))) == ""
