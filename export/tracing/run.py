"""Runs a network in PyTorch with every layer written down, in float32 and in float64.

Requires: a prepared network, and inputs float32 (N, C, H, W).
Ensures: whatever the network raises becomes UnsupportedNetworkError, which names the layer; each layer has a name of its own.
"""

import contextlib
import copy
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from export.errors import UnsupportedNetworkError
from export.tracing.trace import Output, inside, traced

Given = Any  # a tensor, or tuples, lists and dicts of them
Layers = Mapping[str, Output]  # by name what each layer gives, in the order in which the calls end


def unused(network: nn.Module) -> nn.Module:
    """Return a copy with the same weights, but with buffers and attributes of its own, where a forward may write."""
    return copy.deepcopy(network, {id(weight): weight for weight in network.parameters()})


def run(network: nn.Module, x: torch.Tensor) -> Given:
    """Run the network as it is, and nothing else. Raises: UnsupportedNetworkError."""
    return _tried(network, x, _plainly, _failure(x))


def run_traced(network: nn.Module, x: torch.Tensor) -> tuple[Given, Layers]:
    """Run the network as it is. Raises: UnsupportedNetworkError."""
    return _named(_tried(network, x, traced, _failure(x)))


def run_in_float64(network: nn.Module, x: torch.Tensor) -> tuple[Given, Layers]:
    """Run a copy of the network in double precision. Raises: UnsupportedNetworkError."""
    return _named(_tried(copy.deepcopy(network).double(), x.double(), traced, _no_float64))


def _plainly(network: nn.Module, x: torch.Tensor) -> Given:
    with torch.no_grad():
        return network(x)


def _failure(x: torch.Tensor) -> Callable[[str, str], str]:
    size = "x".join(map(str, x.shape[1:]))
    return lambda layer, error: f"the network fails on an input of {size}{layer}: {error}"


def _no_float64(layer: str, error: str) -> str:
    return (
        f"the network runs in float32 but not in float64{layer}, so its error cannot be measured: its forward "
        "fixes a dtype. Where it casts, as in x.float(), let it follow the weights: x.to(self.weight.dtype). "
        f"PyTorch says {error}"
    )


def _tried(network: nn.Module, x: torch.Tensor, way: Callable[..., Any], sentence: Callable[[str, str], str]) -> Any:
    try:
        return way(network, x)
    except UnsupportedNetworkError:
        raise
    except (Exception, SystemExit) as error:  # a forward may call sys.exit
        where = _failing_layer(network, x)
        layer = f" in its layer '{where}'" if where else ""
        raise UnsupportedNetworkError(sentence(layer, f"{type(error).__name__}: {error}")) from error


def _failing_layer(network: nn.Module, x: torch.Tensor) -> str:
    """Run what failed again, with an eye on where it is."""
    with inside(network) as where, contextlib.suppress(Exception, SystemExit):
        _plainly(network, x)
        return ""
    return where()


def _named(ran: tuple[Given, Sequence[Output]]) -> tuple[Given, Layers]:
    given, layers = ran
    name, count = Counter(layer.name for layer in layers).most_common(1)[0] if layers else ("", 0)
    if count > 1:
        raise UnsupportedNetworkError(
            f"{count} layers would be called '{name}': rename the module that has '@' or ':' in its name."
        )
    return given, {layer.name: layer for layer in layers}
