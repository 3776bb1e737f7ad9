"""Removes what surrounds or computes parts of a network, so that its layers have their own paths and can be copied.

Requires: any module.
Ensures: no module is a torch.compile or data-parallel wrapper, and no tensor has a gradient history; the caller's
network is unchanged. A hook on a wrapper, which would be lost, is rejected.
"""

import inspect
from typing import Any

import torch
from torch import nn
from torch._dynamo import OptimizedModule
from torch.nn.parallel import DistributedDataParallel

from export.errors import UnsupportedNetworkError
from export.tensors import attribute_tensors, copied

DATA_PARALLEL = (nn.DataParallel, DistributedDataParallel)
HOOKS = ("_forward_hooks", "_forward_pre_hooks")


def unwrap(network: nn.Module) -> nn.Module:
    """Return `network` without wrappers, and with its computed tensors detached; itself if there is nothing to change.

    Raises: UnsupportedNetworkError.
    """
    network = _inside(network)
    inner = {path: module for path, module in network.named_modules() if _inside(module) is not module}
    has_compiled_forward = any(map(_has_compiled_forward, network.modules()))
    computed = [tensor for tensor in _plain_tensors(network) if not tensor.is_leaf]
    if not (inner or has_compiled_forward or computed):
        return network
    known: dict[int, Any] = {id(tensor): tensor.detach().clone() for tensor in computed}
    known |= {id(weight): weight for weight in network.parameters()}
    for wrapper in reversed(inner.values()):  # the innermost first
        known[id(wrapper)] = copied(_inside(wrapper), known)
    result = copied(network, known)
    for module in filter(_has_compiled_forward, result.modules()):
        del module.forward
    return result


def _inside(network: nn.Module) -> nn.Module:
    """Return the module inside all wrappers around it. Raises: UnsupportedNetworkError if a wrapper has hooks."""
    if isinstance(network, OptimizedModule) and isinstance(network._orig_mod, nn.Module):
        inside = network._orig_mod
    elif isinstance(network, DATA_PARALLEL):
        inside = network.module
    else:
        return network
    if any(vars(network)[hooks] for hooks in HOOKS):
        raise UnsupportedNetworkError(
            f"the wrapper {type(network).__name__} around {type(inside).__name__} has a hook, which an export without "
            "the wrapper would lose: register the hook on the module inside the wrapper."
        )
    return _inside(inside)


def _plain_tensors(network: nn.Module) -> list[torch.Tensor]:
    """Return the buffers, and the tensors in plain attributes, such as the `weight` of the old weight_norm."""
    return [*network.buffers(), *(tensor for _, tensor in attribute_tensors(network))]


def _has_compiled_forward(module: nn.Module) -> bool:
    """Return whether torch.compile replaced the forward on the instance: it runs the weights of that instance."""
    forward = vars(module).get("forward")
    if forward is None or not hasattr(forward, "_torchdynamo_orig_callable"):
        return False
    original = inspect.unwrap(forward)
    return getattr(original, "__func__", original) is inspect.unwrap(type(module).forward)
