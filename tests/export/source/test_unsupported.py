"""Networks with wrappers, computed tensors, or tensors without values."""

import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.utils import prune, weight_norm

from export import ExportSettings, export_model
from export.errors import UnsupportedNetworkError
from export.source.module import plain_preprocessing
from export.source.unsupported import unwrap

SMALL = plain_preprocessing((3, 8, 8))


def small() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(144, 5)).eval()


def normed() -> nn.Module:
    """Return a network with the old weight_norm hook, whose `weight` is the result of a computation."""
    network = small()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        weight_norm(network[0])
    return network


def pruned() -> nn.Module:
    network = small()
    prune.l1_unstructured(network[0], "weight", 0.3)
    return network


class Recording(nn.Module):
    """A network that stores the outputs of its layer."""

    def __init__(self) -> None:
        super().__init__()
        self.network = small()
        self.outputs: list[torch.Tensor] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.outputs.append(self.network(x))
        return self.outputs[-1]


def recording() -> nn.Module:
    network = Recording().eval()
    network(torch.zeros(1, 3, 8, 8))
    return network


def compiled(network: nn.Module) -> nn.Module:
    wrapped: nn.Module = torch.compile(network, backend="eager")
    return wrapped


class TestSupported:
    """Networks that are exported."""

    @pytest.mark.parametrize("make", [normed, pruned, recording])
    def test_computed_values(self, make: Callable[[], nn.Module], tmp_path: Path) -> None:
        """A network that holds computed tensors is exported, and is unchanged."""
        network = make()
        before = network(torch.ones(1, 3, 8, 8))
        exported = export_model(network, ExportSettings(to=tmp_path, name="network"), preprocessing=SMALL)
        assert exported.version == 1
        assert torch.equal(network(torch.ones(1, 3, 8, 8)), before)

    @pytest.mark.parametrize("wrap", [nn.DataParallel, compiled, lambda network: nn.DataParallel(compiled(network))])
    def test_wrappers(self, wrap: Callable[[nn.Module], nn.Module]) -> None:
        """Wrappers are removed, so that layers have the paths of the network itself."""
        network = small()
        assert unwrap(wrap(network)) is network


def scripted() -> nn.Module:
    network = small()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced: nn.Module = torch.jit.trace(network[0], torch.zeros(1, 3, 8, 8))
    return nn.Sequential(traced, *network[1:]).eval()


def sparse() -> nn.Module:
    network = small()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        network.register_buffer("mask", torch.eye(4).to_sparse())
    return network


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (scripted, "its module '0' is TorchScript"),
        (lambda: nn.Sequential(nn.LazyConv2d(3, 3)).eval(), "'0.weight' has no shape yet"),
        (lambda: small().to("meta"), "'0.weight' is on the meta device"),
        (sparse, "'mask' is torch.sparse_coo"),
    ],
)
def test_unsupported(make: Callable[[], nn.Module], message: str, tmp_path: Path) -> None:
    """A module without Python code, and a tensor without values, are rejected by name."""
    with pytest.raises(UnsupportedNetworkError, match=message):
        export_model(make(), ExportSettings(to=tmp_path / "models", name="network"), preprocessing=SMALL)
    assert not (tmp_path / "models").exists()
