"""Removes wrappers from a network, and rejects networks that cannot be exported.

Requires: any module.
Ensures: a module of Python code whose tensors hold numbers and which can be copied; layer paths are those of the
unwrapped network.
"""

import copy
from collections.abc import Iterator

import torch
from torch import nn
from torch._dynamo import OptimizedModule
from torch.nn.parallel import DistributedDataParallel
from torch.nn.parameter import is_lazy

from export.errors import UnsupportedNetworkError


def unwrap(network: nn.Module) -> nn.Module:
    """Return the network inside torch.compile or data-parallel wrappers, with its computed tensors detached.

    Raises: UnsupportedNetworkError.
    """
    network = _without_wrappers(network)
    for path, module in network.named_modules():
        _require_python(path, module)
    for name, tensor in (*network.named_parameters(), *network.named_buffers()):
        _require_values(name, tensor)
    computed = list(_computed_tensors(network))
    if not computed:
        return network
    return copy.deepcopy(network, {id(tensor): tensor.detach().clone() for tensor in computed})


def _without_wrappers(network: nn.Module) -> nn.Module:
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
            f"{where} is TorchScript, which has no Python code to export: pass the module that it was made from."
        )


def _require_values(name: str, tensor: torch.Tensor) -> None:
    if is_lazy(tensor):
        raise UnsupportedNetworkError(
            f"the weight '{name}' has no shape yet: run the network once on an input before the export."
        )
    if tensor.is_meta:
        raise UnsupportedNetworkError(f"the weight '{name}' is on the meta device and has no values: load it first.")
    if tensor.layout != torch.strided:
        raise UnsupportedNetworkError(
            f"the weight '{name}' is {tensor.layout}, which ONNX does not support: replace it by its to_dense()."
        )


def _computed_tensors(network: nn.Module) -> Iterator[torch.Tensor]:
    """Yield tensors with a gradient history, such as the `weight` of the old weight_norm: deepcopy rejects them."""
    for module in network.modules():
        for value in (*vars(module).values(), *module._buffers.values()):
            for item in value if isinstance(value, list | tuple) else (value,):
                if isinstance(item, torch.Tensor) and not item.is_leaf:
                    yield item
