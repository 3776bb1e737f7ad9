"""Networks of other makers: what wraps them is taken off, what cannot be exported is refused by name.

Requires: any module.
Ensures: a module of Python code, on a device, that can be copied; its layers' paths are those of the network itself.
"""

import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch._dynamo import OptimizedModule
from torch.nn.parallel import DistributedDataParallel
from torch.nn.parameter import is_lazy

from export.errors import UnsupportedNetworkError


def bare_net(network: nn.Module) -> nn.Module:
    """Return `network` without what wraps it, and free of what hinders copying. Raises: UnsupportedNetworkError."""
    network = _unwrapped(network)
    for path, module in network.named_modules():
        _require_python(path, module)
    for name, tensor in (*network.named_parameters(), *network.named_buffers()):
        _require_numbers(name, tensor)
    computed = list(_computed(network))
    return copy.deepcopy(network, {id(each): each.detach().clone() for each in computed}) if computed else network


def _unwrapped(network: nn.Module) -> nn.Module:
    """The network that torch.compile or a wrapper for several devices was given."""
    while True:
        if isinstance(network, OptimizedModule) and isinstance(network._orig_mod, nn.Module):
            network = network._orig_mod
        elif isinstance(network, nn.DataParallel | DistributedDataParallel):
            network = network.module
        else:
            return network


def _require_python(path: str, module: nn.Module) -> None:
    if isinstance(module, torch.jit.ScriptModule):
        where = f"its module '{path}'" if path else "the network"
        raise UnsupportedNetworkError(
            f"{where} is TorchScript, which has no Python code to export from: give the module that it was made of."
        )


def _require_numbers(name: str, tensor: torch.Tensor) -> None:
    if is_lazy(tensor):
        raise UnsupportedNetworkError(
            f"the weight '{name}' has no size yet: run the network once on an input before the export."
        )
    if tensor.is_meta:
        raise UnsupportedNetworkError(
            f"the weight '{name}' is on the meta device, where there are no numbers: load it first."
        )
    if tensor.layout != torch.strided:
        raise UnsupportedNetworkError(
            f"the weight '{name}' is {tensor.layout}, which ONNX does not have: give its to_dense()."
        )


def _computed(network: nn.Module) -> Iterator[torch.Tensor]:
    """What modules keep of a computation, such as the old weight_norm's `weight`: it cannot be copied as it is."""
    for module in network.modules():
        for value in _kept(module):
            if isinstance(value, torch.Tensor) and not value.is_leaf:
                yield value


def _kept(module: nn.Module) -> Iterator[Any]:
    for value in (*vars(module).values(), *module._buffers.values()):
        yield from value if isinstance(value, list | tuple) else (value,)
