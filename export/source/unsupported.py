"""Rejects objects and networks that cannot be exported.

Requires: any object.
Ensures: a module of Python code whose tensors are plain and hold numbers, and whose modules are registered under names
that can be displayed.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.ao.quantization import FakeQuantizeBase, ObserverBase
from torch.export import ExportedProgram, UnflattenedModule
from torch.fx import GraphModule
from torch.nn.parameter import is_lazy
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from export.errors import SourceError, UnsupportedNetworkError
from export.tensors import attribute_values, held_tensors

MADE_FROM = "pass the module that it was made from."
QUANTISED = ("torch.ao.nn.quantized", "torch.ao.nn.intrinsic.quantized", "torch.ao.nn.sparse.quantized")
UNUSABLE_IN_NAMES = '"\\'  # torch.fx writes names into Python code without escaping these


def require_module(network: Any) -> nn.Module:
    """Return `network` if it is a module. Raises: SourceError."""
    if isinstance(network, nn.Module):
        return network
    actual, remedy = f"a {type(network).__name__}", "pass a torch.nn.Module."
    if isinstance(network, ExportedProgram):
        remedy = MADE_FROM
    elif isinstance(network, type):
        actual, remedy = f"the class {network.__name__}", f"pass an instance, such as {network.__name__}()."
    elif isinstance(network, dict):
        remedy = "build the network, load these weights with load_state_dict, and pass the network."
    raise SourceError(f"the network must be a torch.nn.Module, a run's folder or a name; it is {actual}: {remedy}")


def require_supported(network: nn.Module) -> None:
    """Reject a network that cannot be exported as it is.

    Raises: UnsupportedNetworkError, which names the module or the weight.
    """
    for path, module in network.named_modules():
        for is_rejected, problem in MODULES:
            if is_rejected(module):
                what = f"the layer {path!r}" if path else "the network"
                raise UnsupportedNetworkError(f"{what} ({type(module).__name__}) {problem}")
        _require_names(path, module)
    for name, tensor in held_tensors(network):
        for is_refused, cause in TENSORS:
            if is_refused(tensor):
                raise UnsupportedNetworkError(f"the tensor '{name}' {cause}")
    _require_registered(network)


def _require_names(path: str, module: nn.Module) -> None:
    for kind, names in (("module", module._modules), ("weight", module._parameters), ("buffer", module._buffers)):
        for name in names:
            if not name.isprintable() or any(character in name for character in UNUSABLE_IN_NAMES):
                where = f" of '{path}'" if path else ""
                raise UnsupportedNetworkError(
                    f"the {kind} {name!r}{where} has a quote, a backslash or an unprintable character in its name, "
                    "which torch.onnx or clients cannot use: rename it."
                )


def _require_registered(network: nn.Module) -> None:
    registered = set(network.modules())
    for path, value in attribute_values(network):
        if path.endswith("]") and isinstance(value, nn.Module) and value not in registered:
            raise UnsupportedNetworkError(
                f"'{path}' ({type(value).__name__}) is in a plain list or dict, so that eval(), a state dict and the "
                "export miss it: use nn.ModuleList or nn.ModuleDict."
            )


def _is_quantised(module: nn.Module) -> bool:
    return type(module).__module__.startswith(QUANTISED)


def _is_sharded(module: nn.Module) -> bool:
    return any(base.__module__.startswith("torch.distributed.") for base in type(module).__mro__)


def _is_captured(module: nn.Module) -> bool:
    """Return whether a module comes from torch.export; a graph of torch.fx alone can be in evaluation mode."""
    return isinstance(module, UnflattenedModule) or (isinstance(module, GraphModule) and "eval" in vars(module))


MODULES: tuple[tuple[Callable[[nn.Module], bool], str], ...] = (
    (
        lambda module: isinstance(module, torch.jit.ScriptModule),
        f"is TorchScript, which has no Python code to export: {MADE_FROM}",
    ),
    (_is_captured, f"is a graph that torch.export captured, without the Python code of its layers: {MADE_FROM}"),
    (
        _is_quantised,
        "is quantised by PyTorch, but networks are exported from float32: pass the network as it was before "
        "torch.ao.quantization.convert, and add --variants int8.",
    ),
    (
        lambda module: isinstance(module, FakeQuantizeBase | ObserverBase),
        "is an observer or a simulation of quantisation, which ONNX does not have: pass the network as it was before "
        "torch.ao.quantization.prepare, and add --variants int8.",
    ),
    (
        _is_sharded,
        "is sharded over processes by torch.distributed, so that no process has all weights: collect them with "
        "torch.distributed.checkpoint.state_dict.get_model_state_dict, full_state_dict=True, and load them into a "
        "network that is not sharded.",
    ),
)
TENSORS: tuple[tuple[Callable[[torch.Tensor], bool], str], ...] = (
    (is_lazy, "has no shape yet: run the network once on an input before the export."),
    (lambda tensor: tensor.is_meta, "is on the meta device and has no values: load its values first."),
    (
        lambda tensor: tensor.layout != torch.strided,
        "is sparse, but tensors of an ONNX model are dense: replace it by its to_dense().",
    ),
    (
        lambda tensor: tensor.is_quantized or is_traceable_wrapper_subclass(tensor),
        "is no plain torch.Tensor but a quantised, sharded or nested one, which ONNX does not have: replace it by a "
        "float32 tensor of its values.",
    ),
)
