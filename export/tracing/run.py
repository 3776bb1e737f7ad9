"""Runs a net in PyTorch with every layer written down, in float32 and in float64.

Requires: a prepared net, and inputs float32 (N, C, H, W).
Ensures: whatever the net raises becomes UnfitNetError, which names the layer; each layer has a name of its own.
"""

import contextlib
import copy
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from export.errors import UnfitNetError
from export.tracing.trace import Output, inside, traced

Given = Any  # a tensor, or tuples, lists and dicts of them
Layers = Mapping[str, Output]  # by name what each layer gives, in the order in which the calls end


def unused(net: nn.Module) -> nn.Module:
    """Return a copy with the same weights, but with buffers and attributes of its own, where a forward may write."""
    return copy.deepcopy(net, {id(weight): weight for weight in net.parameters()})


def run(net: nn.Module, x: torch.Tensor) -> Given:
    """Run the net as it is, and nothing else. Raises: UnfitNetError."""
    return _tried(net, x, _plainly, _failure(x))


def run_traced(net: nn.Module, x: torch.Tensor) -> tuple[Given, Layers]:
    """Run the net as it is. Raises: UnfitNetError."""
    return _named(_tried(net, x, traced, _failure(x)))


def run_in_float64(net: nn.Module, x: torch.Tensor) -> tuple[Given, Layers]:
    """Run a copy of the net in double precision. Raises: UnfitNetError."""
    return _named(_tried(copy.deepcopy(net).double(), x.double(), traced, _no_float64))


def _plainly(net: nn.Module, x: torch.Tensor) -> Given:
    with torch.no_grad():
        return net(x)


def _failure(x: torch.Tensor) -> Callable[[str, str], str]:
    size = "x".join(map(str, x.shape[1:]))
    return lambda layer, error: f"the net fails on an input of {size}{layer}: {error}"


def _no_float64(layer: str, error: str) -> str:
    return (
        f"the net runs in float32 but not in float64{layer}, so its error cannot be measured: its forward "
        "fixes a dtype. Where it casts, as in x.float(), let it follow the weights: x.to(self.weight.dtype). "
        f"PyTorch says {error}"
    )


def _tried(net: nn.Module, x: torch.Tensor, way: Callable[..., Any], sentence: Callable[[str, str], str]) -> Any:
    try:
        return way(net, x)
    except UnfitNetError:
        raise
    except (Exception, SystemExit) as error:  # a forward may call sys.exit
        where = _failing_layer(net, x)
        layer = f" in its layer '{where}'" if where else ""
        raise UnfitNetError(sentence(layer, f"{type(error).__name__}: {error}")) from error


def _failing_layer(net: nn.Module, x: torch.Tensor) -> str:
    """Run what failed again, with an eye on where it is."""
    with inside(net) as where, contextlib.suppress(Exception, SystemExit):
        _plainly(net, x)
        return ""
    return where()


def _named(ran: tuple[Given, Sequence[Output]]) -> tuple[Given, Layers]:
    given, layers = ran
    name, count = Counter(layer.name for layer in layers).most_common(1)[0] if layers else ("", 0)
    if count > 1:
        raise UnfitNetError(
            f"{count} layers would be called '{name}': rename the module that has '@' or ':' in its name."
        )
    return given, {layer.name: layer for layer in layers}
