"""Networks with wrappers or computed tensors."""

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
from export.source.wrappers import unwrap
from protos import manifest

SMALL = plain_preprocessing((3, 8, 8))
Wrap = Callable[[nn.Module], nn.Module]


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
    """A network that stores the outputs of its layer, in a list and in a dict of dicts."""

    def __init__(self) -> None:
        super().__init__()
        self.network = small()
        self.outputs: list[torch.Tensor] = []
        self.last: dict[str, dict[str, torch.Tensor]] = {"all": {}}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.outputs.append(self.network(x))
        self.last["all"]["last"] = self.outputs[-1]
        return self.outputs[-1]


def recording() -> nn.Module:
    network = Recording().eval()
    network(torch.zeros(1, 3, 8, 8))
    return network


def compiled(network: nn.Module) -> nn.Module:
    wrapped: nn.Module = torch.compile(network, backend="eager")
    return wrapped


def compiled_forward(network: nn.Module) -> nn.Module:
    network.forward = torch.compile(network.forward, backend="eager")  # type: ignore[method-assign]
    return network


@pytest.mark.parametrize("make", [normed, pruned, recording])
def test_computed_values(make: Callable[[], nn.Module], tmp_path: Path) -> None:
    """A network that holds computed tensors is exported, and is unchanged."""
    network = make()
    before = network(torch.ones(1, 3, 8, 8))
    exported = export_model(network, ExportSettings(to=tmp_path, name="network"), preprocessing=SMALL)
    assert exported.version == 1
    assert torch.equal(network(torch.ones(1, 3, 8, 8)), before)


@pytest.mark.parametrize("wrap", [nn.DataParallel, compiled, lambda network: nn.DataParallel(compiled(network))])
def test_a_wrapped_network(wrap: Wrap) -> None:
    """Wrappers are removed, so that layers have the paths of the network itself."""
    network = small()
    assert unwrap(wrap(network)) is network


@pytest.mark.parametrize(
    "wrap",
    [nn.DataParallel, compiled, lambda module: nn.DataParallel(compiled(module)), compiled_forward],
    ids=["data-parallel", "compiled", "both", "compiled-forward"],
)
def test_a_wrapped_layer(wrap: Wrap, tmp_path: Path) -> None:
    """A wrapper inside a network is removed in a copy; the layer has its own path, and is in the file."""
    network = small()
    network[0] = nn.Sequential(wrap(nn.Sequential(network[0], nn.ReLU()))).eval()
    exported = export_model(network, ExportSettings(to=tmp_path, name="network"), preprocessing=SMALL)
    layers = {layer.name: layer.status for layer in exported.manifest.layer_map.layers}
    assert list(layers) == ["0.0.0", "0.0.1", "0.0", "0", "1", "2"]
    assert set(layers.values()) <= {manifest.EXACT, manifest.ALIAS}


def test_a_compiled_forward() -> None:
    """A forward that was compiled on the instance is replaced by the class's: it runs the weights it was made from."""
    network = compiled_forward(small())
    copy = unwrap(network)
    copy[2].bias.data += 1  # the weights are shared  # type: ignore[index, union-attr, operator]
    x = torch.ones(1, 3, 8, 8)
    assert "forward" not in vars(copy)
    assert torch.equal(copy(x), network(x))


@pytest.mark.parametrize("wrap", [nn.DataParallel, compiled])
def test_a_hook_on_a_wrapper(wrap: Wrap) -> None:
    """A hook that would be lost with its wrapper is rejected."""
    wrapped = wrap(small())
    wrapped.register_forward_hook(lambda _module, _args, output: output + 1)
    for network in (wrapped, nn.Sequential(wrapped)):
        with pytest.raises(UnsupportedNetworkError, match=r"the wrapper \w+ around Sequential has a hook"):
            unwrap(network)
