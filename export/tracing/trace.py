"""Records the tensors that each module call of a network accepts and returns, with forward hooks.

Ensures: recorded values are copies, made before an in-place operation can overwrite them. A tensor is identified by its
address, shape, strides and version, which distinguishes a module that returns its input from one that computes.
"""

import contextlib
import itertools
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch._C._functorch import is_functorch_wrapped_tensor

from export.arrays import Array
from export.errors import UnsupportedNetworkError
from export.tracing.arguments import Arguments
from protos.layer_names import layer_name

Identity = tuple[int, tuple[int, ...], tuple[int, ...], int]


@dataclass(frozen=True, eq=False)
class TensorRecord:
    """One tensor returned by one call of one module.

    Attributes:
        path: The module's path in the network.
        call: The number of earlier calls of the module.
        element: The tensor's index among those that the call returned.
        kind: The module's class name.
        parent: The path of the module that made the call.
        value: A copy of the tensor.
        identity: Identifies the tensor's memory at the end of the call.
        inputs: The identities of the call's input tensors.
    """

    path: str
    call: int
    element: int
    kind: str
    parent: str
    value: Array
    identity: Identity
    inputs: frozenset[Identity]

    @property
    def name(self) -> str:
        """The layer name that clients use."""
        return layer_name(self.path, self.call, self.element)

    @property
    def is_passthrough(self) -> bool:
        """Whether the module returned one of its inputs unchanged."""
        return self.identity in self.inputs


def trace(network: nn.Module, arguments: Arguments) -> tuple[Any, list[TensorRecord]]:
    """Return the output of `network`, and a record of each tensor that a module call returned, in that order."""
    recorder = _Recorder()
    handles = [handle for path, module in network.named_modules() for handle in recorder.attach(path, module)]
    try:
        output = arguments.call(network)
    finally:
        for handle in handles:
            handle.remove()
    return output, recorder.records


@contextlib.contextmanager
def module_tracker(network: nn.Module) -> Iterator[Callable[[], str]]:
    """Provide a function that returns the path of the running module; after an exception, of the one that raised."""
    stack: list[str] = []

    def enter(path: str) -> Callable[..., None]:
        return lambda *_: stack.append(path)

    def leave(*_: Any) -> None:
        stack.pop()

    handles = [module.register_forward_pre_hook(enter(path)) for path, module in network.named_modules()]
    handles += [module.register_forward_hook(leave) for module in network.modules()]
    try:
        yield lambda: stack[-1] if stack else ""
    finally:
        for handle in handles:
            handle.remove()


def layer_shapes(network: nn.Module, arguments: Arguments) -> list[tuple[str, tuple[int, ...]]]:
    """Return the name and shape of each tensor that each module call returns; `arguments` may be on the meta device."""
    shapes: list[tuple[str, tuple[int, ...]]] = []
    calls: defaultdict[str, Iterator[int]] = defaultdict(itertools.count)

    def hook(path: str) -> Callable[..., None]:
        def record(_module: nn.Module, _args: Any, result: Any) -> None:
            call = next(calls[path])
            shapes.extend(
                (layer_name(path, call, element), tuple(tensor.shape))
                for element, tensor in enumerate(_tensors(result))
            )

        return record

    handles = [module.register_forward_hook(hook(path)) for path, module in network.named_modules()]
    try:
        arguments.call(network)
    finally:
        for handle in handles:
            handle.remove()
    return shapes


class _Recorder:
    def __init__(self) -> None:
        self.records: list[TensorRecord] = []
        self._alive: list[torch.Tensor] = []  # the address of a freed tensor could be reused
        self._copies: dict[Identity, Array] = {}  # a block returns the same tensor as its last layer: copy it once
        self._calls: defaultdict[str, Iterator[int]] = defaultdict(itertools.count)
        self._stack: list[str] = []
        self._inputs: list[frozenset[Identity]] = []

    def attach(self, path: str, module: nn.Module) -> list[Any]:
        return [
            module.register_forward_pre_hook(self._before(path), with_kwargs=True),
            module.register_forward_hook(self._after(path)),
        ]

    def _before(self, path: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, kwargs: Any) -> None:
            self._stack.append(path)
            for tensor in _tensors((args, kwargs)):
                _require_recordable(path, type(module).__name__, tensor)
            self._inputs.append(frozenset(_identity(tensor) for tensor in _tensors((args, kwargs))))

        return hook

    def _after(self, path: str) -> Callable[..., None]:
        def hook(module: nn.Module, _args: Any, result: Any) -> None:
            self._stack.pop()
            inputs = self._inputs.pop()
            parent = self._stack[-1] if self._stack else ""
            call = next(self._calls[path])
            kind = type(module).__name__
            for element, tensor in enumerate(_tensors(result)):
                _require_recordable(path, kind, tensor)
                self._alive.append(tensor)
                identity = _identity(tensor)
                if identity not in self._copies:
                    self._copies[identity] = _to_numpy(tensor.detach().clone().cpu())
                value = self._copies[identity]
                self.records.append(TensorRecord(path, call, element, kind, parent, value, identity, inputs))

        return hook


def _require_recordable(path: str, kind: str, tensor: torch.Tensor) -> None:
    """Reject a tensor without memory of its own. Raises: UnsupportedNetworkError, which names the layer."""
    layer = f"the layer '{path}' ({kind})" if path else f"the network ({kind})"
    if is_functorch_wrapped_tensor(tensor):
        raise UnsupportedNetworkError(
            f"{layer} is called inside a transform of torch.func, such as vmap, where its output cannot be recorded: "
            "call it outside, on the whole batch."
        )
    if tensor.layout != torch.strided:
        layout = str(tensor.layout).removeprefix("torch.")
        raise UnsupportedNetworkError(
            f"{layer} accepts or returns a tensor of layout {layout}, but tensors of an ONNX model are strided: "
            "convert it by to_dense() before it leaves the module that makes it."
        )


def _to_numpy(tensor: torch.Tensor) -> Array:
    """Return the tensor as an array; numpy has no bfloat16, whose values float32 represents exactly."""
    return np.asarray(tensor.float() if tensor.dtype == torch.bfloat16 else tensor)


def _identity(tensor: torch.Tensor) -> Identity:
    version = 0 if tensor.is_inference() else tensor._version  # tensors of inference mode count no versions
    return tensor.data_ptr(), tuple(tensor.shape), tensor.stride(), version


def _tensors(result: Any) -> Iterator[torch.Tensor]:
    if isinstance(result, torch.Tensor):
        yield result
    elif isinstance(result, dict):
        yield from _tensors(list(result.values()))
    elif isinstance(result, list | tuple):
        for item in result:
            yield from _tensors(item)
