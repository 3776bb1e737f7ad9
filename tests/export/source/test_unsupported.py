"""Nets of other makers: wrapped, computed, without numbers."""

import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.utils import prune, weight_norm

from export import ExportSettings, export_model
from export.errors import UnfitNetError
from export.source.module import plain_preprocessing
from export.source.unsupported import bare_net

SMALL = plain_preprocessing((3, 8, 8))


def small() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(144, 5)).eval()


def normed() -> nn.Module:
    """By the old hook, whose `weight` is the result of a computation."""
    net = small()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        weight_norm(net[0])
    return net


def pruned() -> nn.Module:
    net = small()
    prune.l1_unstructured(net[0], "weight", 0.3)
    return net


class Remembering(nn.Module):
    """A net that keeps what its layer gave."""

    def __init__(self) -> None:
        super().__init__()
        self.net = small()
        self.seen: list[torch.Tensor] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen.append(self.net(x))
        return self.seen[-1]


def remembering() -> nn.Module:
    net = Remembering().eval()
    net(torch.zeros(1, 3, 8, 8))
    return net


def compiled(net: nn.Module) -> nn.Module:
    wrapped: nn.Module = torch.compile(net, backend="eager")
    return wrapped


class TestTaken:
    """Nets that are exported."""

    @pytest.mark.parametrize("make", [normed, pruned, remembering])
    def test_computed_values(self, make: Callable[[], nn.Module], tmp_path: Path) -> None:
        """A net that holds results of computations is exported, and stays as it was."""
        net = make()
        before = net(torch.ones(1, 3, 8, 8))
        exported = export_model(net, ExportSettings(to=tmp_path, name="net"), preprocessing=SMALL)
        assert exported.version == 1
        assert torch.equal(net(torch.ones(1, 3, 8, 8)), before)

    @pytest.mark.parametrize("wrap", [nn.DataParallel, compiled, lambda net: nn.DataParallel(compiled(net))])
    def test_wrappers(self, wrap: Callable[[nn.Module], nn.Module]) -> None:
        """What wraps a net is taken off: the layers have the paths of the net itself."""
        net = small()
        assert bare_net(wrap(net)) is net


def scripted() -> nn.Module:
    net = small()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced: nn.Module = torch.jit.trace(net[0], torch.zeros(1, 3, 8, 8))
    return nn.Sequential(traced, *net[1:]).eval()


def sparse() -> nn.Module:
    net = small()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        net.register_buffer("mask", torch.eye(4).to_sparse())
    return net


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (scripted, "its module '0' is TorchScript"),
        (lambda: nn.Sequential(nn.LazyConv2d(3, 3)).eval(), "'0.weight' has no size yet"),
        (lambda: small().to("meta"), "'0.weight' is on the meta device"),
        (sparse, "'mask' is torch.sparse_coo"),
    ],
)
def test_refused(make: Callable[[], nn.Module], words: str, tmp_path: Path) -> None:
    """What has no code or no numbers is refused by name."""
    with pytest.raises(UnfitNetError, match=words):
        export_model(make(), ExportSettings(to=tmp_path / "models", name="net"), preprocessing=SMALL)
    assert not (tmp_path / "models").exists()
