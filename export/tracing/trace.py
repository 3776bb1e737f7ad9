"""Records the tensors that each module call of a network accepts and returns, with forward hooks.

Ensures: recorded values are those of the moment at which the call returned; they are copied only where an operation
overwrites them later, because those of all layers can take gigabytes. A tensor is identified by its address, shape,
strides and version, which distinguishes a module that returns its input from one that computes.
"""

import contextlib
import itertools
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch._C._functorch import is_functorch_wrapped_tensor
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from export.arrays import Array
from export.errors import UnsupportedNetworkError
from export.tensors import held_tensors
from export.tracing.arguments import Arguments
from export.tracing.float64 import plain
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
        value: The tensor's values at the end of the call.
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
    with _BeforeWrites(recorder.copy):
        output = _run_observed(network, arguments, recorder.add)
    for _, tensor in held_tensors(network):  # a later run may write to them
        recorder.copy(tensor)
    return output, recorder.records()


def stream(network: nn.Module, arguments: Arguments, consume: Callable[[TensorRecord], None]) -> Any:
    """Return the output of `network`, and pass each record to `consume`; its value is valid during that call only.

    A tensor that several modules in a row return, as a block returns that of its last layer, has one array.
    """
    latest: tuple[Identity | None, Array, torch.Tensor | None] = None, np.empty(0), None

    def visit(call: _Call, tensor: torch.Tensor) -> None:
        nonlocal latest
        identity = _identity(tensor)
        if identity != latest[0]:  # the address of the latest tensor, which is kept, is not reused
            latest = identity, _contiguous(_to_numpy(tensor)), tensor
        consume(call.record(latest[1], identity))

    return _run_observed(network, arguments, visit)


@contextlib.contextmanager
def _counted_versions() -> Iterator[None]:
    """Make `torch.inference_mode` inside the block compute as `torch.no_grad` does.

    Tensors made in inference mode count no versions, so that a ReLU in place would seem to return its input unchanged.
    """
    mode = torch.inference_mode
    enter, leave = mode.__enter__, mode.__exit__
    # The caller of a network has disabled gradients already (see Arguments.call).
    mode.__enter__, mode.__exit__ = (lambda _: None), (lambda *_: None)  # type: ignore[method-assign]
    try:
        yield
    finally:
        mode.__enter__, mode.__exit__ = enter, leave  # type: ignore[method-assign]


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


@dataclass(frozen=True)
class _Call:
    """The fields of a TensorRecord that do not depend on the tensor."""

    path: str
    call: int
    element: int
    kind: str
    parent: str
    inputs: frozenset[Identity]

    def record(self, value: Array, identity: Identity) -> TensorRecord:
        return TensorRecord(**vars(self), value=value, identity=identity)


class _Recorder:
    """Keeps the tensors of all calls, and copies those that are about to be overwritten."""

    def __init__(self) -> None:
        self._calls: list[tuple[_Call, Identity]] = []
        self._alive: list[torch.Tensor] = []  # the address of a freed tensor could be reused
        self._values: dict[Identity, Array] = {}
        self._shared: defaultdict[int, set[Identity]] = defaultdict(set)  # values that are no copies, by storage

    def add(self, call: _Call, tensor: torch.Tensor) -> None:
        identity = _identity(tensor)
        self._calls.append((call, identity))
        if identity not in self._values:
            self._alive.append(tensor)
            self._values[identity] = _to_numpy(tensor)
            self._shared[_storage(tensor)].add(identity)

    def copy(self, tensor: torch.Tensor) -> None:
        """Copy the values that share the memory of `tensor`."""
        for identity in self._shared.pop(_storage(tensor), ()):
            self._values[identity] = self._values[identity].copy()

    def records(self) -> list[TensorRecord]:
        """Return the records in the order of the calls; each array is contiguous, so that comparisons are fast."""
        self._alive.clear()
        for identity, value in self._values.items():
            self._values[identity] = _contiguous(value)
        return [call.record(self._values[identity], identity) for call, identity in self._calls]


class _BeforeWrites(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's class is untyped
    """While active, calls a function with each tensor that an operation is about to overwrite."""

    def __init__(self, before_write: Callable[[torch.Tensor], None]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._before_write = before_write

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func._schema.is_mutable:
            for tensor in _written(func._schema.arguments, args, kwargs):
                self._before_write(tensor)
        return func(*args, **kwargs)


def _written(arguments: Any, args: Any, kwargs: Any) -> Iterator[torch.Tensor]:
    for index, argument in enumerate(arguments):
        if argument.is_write:
            passed = args[index] if index < len(args) else kwargs.get(argument.name)
            yield from _tensors(passed)


def _run_observed(network: nn.Module, arguments: Arguments, visit: Callable[[_Call, torch.Tensor], None]) -> Any:
    """Run the network, and call `visit` with each tensor that a module call returns."""
    observer = _Observer(visit)
    handles = [handle for path, module in network.named_modules() for handle in observer.attach(path, module)]
    try:
        with _counted_versions():
            return arguments.call(network)
    finally:
        for handle in handles:
            handle.remove()


class _Observer:
    def __init__(self, visit: Callable[[_Call, torch.Tensor], None]) -> None:
        self._visit = visit
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
            tensors = list(_tensors(plain((args, kwargs))))
            _require_recordable(path, type(module).__name__, tensors)
            self._inputs.append(frozenset(map(_identity, tensors)))

        return hook

    def _after(self, path: str) -> Callable[..., None]:
        def hook(module: nn.Module, _args: Any, result: Any) -> None:
            self._stack.pop()
            inputs = self._inputs.pop()
            parent = self._stack[-1] if self._stack else ""
            call = next(self._calls[path])
            tensors = list(_tensors(plain(result)))
            _require_recordable(path, type(module).__name__, tensors)
            for element, tensor in enumerate(tensors):
                self._visit(_Call(path, call, element, type(module).__name__, parent, inputs), tensor)

        return hook


def _require_recordable(path: str, kind: str, tensors: Sequence[torch.Tensor]) -> None:
    """Reject tensors without memory of their own. Raises: UnsupportedNetworkError, which names the layer."""
    layer = f"the layer '{path}' ({kind})" if path else f"the network ({kind})"
    if any(map(is_functorch_wrapped_tensor, tensors)):
        raise UnsupportedNetworkError(
            f"{layer} is called inside a transform of torch.func, such as vmap, where its output cannot be recorded: "
            "call it outside, on the whole batch."
        )
    if any(tensor.is_nested for tensor in tensors):
        raise UnsupportedNetworkError(
            f"{layer} accepts or returns a nested tensor, but tensors of an ONNX model are strided: create "
            "nn.TransformerEncoder with enable_nested_tensor=False, or pad the tensor in the network."
        )
    for tensor in (tensor for tensor in tensors if tensor.layout != torch.strided):
        layout = str(tensor.layout).removeprefix("torch.")
        raise UnsupportedNetworkError(
            f"{layer} accepts or returns a tensor of layout {layout}, but tensors of an ONNX model are strided: "
            "convert it by to_dense() before it leaves the module that makes it."
        )


def _to_numpy(tensor: torch.Tensor) -> Array:
    """Return an array with the memory of the tensor; numpy has no bfloat16, whose values float32 represents exactly."""
    with _disable_current_modes():
        array: Array = (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy(force=True)
    return array


def _contiguous(array: Array) -> Array:
    """Return the array, or a contiguous copy, which is faster to compare."""
    return np.ascontiguousarray(array).reshape(array.shape)


def _storage(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _identity(tensor: torch.Tensor) -> Identity:
    version = 0 if tensor.is_inference() else tensor._version  # a weight made in inference mode counts no versions
    return tensor.data_ptr(), tuple(tensor.shape), tensor.stride(), version


def _tensors(result: Any) -> Iterator[torch.Tensor]:
    if isinstance(result, torch.Tensor):
        yield result
    elif isinstance(result, dict):
        yield from _tensors(list(result.values()))
    elif isinstance(result, list | tuple):
        for item in result:
            yield from _tensors(item)
