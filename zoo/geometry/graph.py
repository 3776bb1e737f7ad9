"""A network's operations in execution order, and the module calls that contain them.

The network runs once on PyTorch's meta device, where tensors have no data; that run only supplies the order of the
operations. Weights and other tensors that do not depend on the image become constants with a shape. The shapes that
PyTorch's meta kernels compute are kept in `recorded` for comparison in tests; no rule reads them.
"""

import itertools
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from zoo.errors import GeometryError
from zoo.geometry.costs import MACS
from zoo.layers import LocallyConnected1d, LocallyConnected2d

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Ref:
    """A reference, by index, to a tensor that depends on the image."""

    index: int


@dataclass(frozen=True)
class Constant:
    """A tensor that does not depend on the image."""

    shape: Shape


@dataclass(frozen=True)
class Node:
    """One operation.

    Attributes:
        op: PyTorch's name of the operation.
        args: positional arguments, with `Ref` or `Constant` in place of tensors.
        kwargs: keyword arguments, likewise.
        outputs: the output tensors; empty if `constant` is set.
        call: index of the module call that contains the operation; -1 outside all calls.
        makes_memory: False if the output shares an input's memory, as after a view or an in-place operation.
        constant: the output of an operation that does not depend on the image; recorded only if it has a cost.
    """

    op: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    outputs: tuple[Ref, ...]
    call: int
    makes_memory: bool
    constant: Constant | None = None


@dataclass
class Call:
    """One call of one module.

    Attributes:
        path: the module's path in the network; empty for the network itself.
        module: the module.
        parent: index of the call that contains this one; -1 for the network itself.
        number: how many times the module had been called before.
        inputs: the input tensors that depend on the image.
        outputs: the output tensors; None for one that does not depend on the image.
    """

    path: str
    module: nn.Module
    parent: int
    number: int
    inputs: tuple[Ref, ...]
    outputs: tuple[Ref | None, ...] = ()


@dataclass
class Graph:
    """The recorded run: `calls` in the order in which they began, and in `recorded` the shape of each tensor."""

    input_size: Shape
    image: Ref = Ref(0)
    nodes: list[Node] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    recorded: list[Shape] = field(default_factory=list)


def record(network: nn.Module, input_size: Sequence[int]) -> Graph:
    """Record the graph of `network`, which must be on the meta device, for one image of (C, *axes).

    Raises:
        GeometryError: the network does not accept that size; `layer` is the path of the layer that failed.
    """
    recorder = _Recorder(tuple(input_size))
    handles = [handle for path, module in network.named_modules() for handle in recorder.attach(path, module)]
    try:
        with recorder, torch.no_grad():
            network(recorder.image)
    except (AssertionError, RuntimeError, ValueError, IndexError, TypeError) as error:
        raise GeometryError(_first_line(error), layer=recorder.innermost_path) from error
    finally:
        for handle in handles:
            handle.remove()
    return recorder.graph


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self, input_size: Shape) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.graph = Graph(input_size)
        self.image = torch.empty(1, *input_size, device="meta")
        self._alive: list[Tensor] = []  # keeps tensors alive: the id of a freed one would be reused
        self._refs: dict[int, Ref] = {}
        self._overwritten: set[int] = set()
        self._stack: list[int] = []
        self._call_numbers: defaultdict[str, Iterator[int]] = defaultdict(itertools.count)
        self._new_ref(self.image)

    @property
    def innermost_path(self) -> str:
        return self.graph.calls[self._stack[-1]].path if self._stack else ""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, op = kwargs or {}, func.overloadpacket.__name__.removesuffix("_")
        recorded_args, recorded_kwargs = self._without_tensors(args), self._without_tensors(kwargs)
        depends_on_image = any(id(tensor) in self._refs for tensor in tensors_in((args, kwargs)))
        memory = {_storage_id(tensor) for tensor in tensors_in((args, kwargs))}
        result = func(*args, **kwargs)
        if depends_on_image:
            outputs = list(tensors_in(result))
            makes_memory = any(_storage_id(output) not in memory for output in outputs)
            if func._schema.is_mutable:
                self._overwrite(args[0])
            self._add_node(op, recorded_args, recorded_kwargs, outputs, makes_memory)
        elif op in MACS:
            constant = Constant(tuple(result.shape))
            self.graph.nodes.append(Node(op, recorded_args, recorded_kwargs, (), self._call, False, constant))
        return result

    @property
    def _call(self) -> int:
        return self._stack[-1] if self._stack else -1

    def _add_node(self, op: str, args: Any, kwargs: Any, outputs: Sequence[Tensor], makes_memory: bool) -> None:
        refs = tuple(self._new_ref(output) for output in outputs)
        self.graph.nodes.append(Node(op, args, kwargs, refs, self._call, makes_memory))

    def _overwrite(self, target: Tensor) -> None:
        """Forget every other tensor that shares the memory of `target`: an in-place operation has changed it."""
        storage = _storage_id(target)
        self._overwritten.add(storage)
        for tensor in self._alive:
            if tensor is not target and _storage_id(tensor) == storage:
                self._refs.pop(id(tensor), None)

    def _new_ref(self, tensor: Tensor) -> Ref:
        ref = Ref(len(self.graph.recorded))
        self.graph.recorded.append(tuple(tensor.shape))
        self._alive.append(tensor)
        self._refs[id(tensor)] = ref
        return ref

    def _ref(self, tensor: Tensor) -> Ref | None:
        """Return the tensor's reference, or None if it does not depend on the image.

        A tensor whose memory was overwritten through another tensor becomes the output of an unknown operation.
        """
        if id(tensor) not in self._refs and _storage_id(tensor) in self._overwritten:
            self._add_node("writing through a view", (), {}, [tensor], makes_memory=False)
        return self._refs.get(id(tensor))

    def _without_tensors(self, value: Any) -> Any:
        """Return nested arguments with a `Ref` or `Constant` in place of each tensor."""
        if isinstance(value, Tensor):
            return self._ref(value) or Constant(tuple(value.shape))
        if isinstance(value, dict):
            return {key: self._without_tensors(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return type(value)(self._without_tensors(item) for item in value)
        return value

    def attach(self, path: str, module: nn.Module) -> list[Any]:
        return [
            module.register_forward_pre_hook(self._begin_call(path), with_kwargs=True),
            module.register_forward_hook(self._end_call()),
        ]

    def _begin_call(self, path: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, kwargs: Any) -> None:
            refs = tuple(ref for ref in map(self._ref, tensors_in((args, kwargs))) if ref)
            call = Call(path, module, self._call, next(self._call_numbers[path]), refs)
            self._stack.append(len(self.graph.calls))
            self.graph.calls.append(call)

        return hook

    def _end_call(self) -> Callable[..., None]:
        def hook(module: nn.Module, _args: Any, result: Any) -> None:
            index = self._stack.pop()
            self.graph.calls[index].outputs = tuple(self._ref(output) for output in tensors_in(result))
            if isinstance(module, LocallyConnected1d | LocallyConnected2d):
                self._add_locally_connected(module, index)

        return hook

    def _add_locally_connected(self, layer: LocallyConnected1d | LocallyConnected2d, index: int) -> None:
        """Record the layer as one operation: it gathers by an index, from which no rule can derive the window."""
        windows = (layer.kernel_size, layer.stride, layer.padding, layer.dilation)
        call = self.graph.calls[index]
        args = (*call.inputs, layer.out_channels, *windows)
        outputs = tuple(ref for ref in call.outputs if ref)
        self.graph.nodes.append(Node("locally_connected", args, {}, outputs, index, makes_memory=False))


def _storage_id(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__


def tensors_in(value: Any) -> Iterator[Tensor]:
    """Yield every tensor in nested lists, tuples and dicts, in order."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        yield from tensors_in(list(value.values()))
    elif isinstance(value, list | tuple):
        for item in value:
            yield from tensors_in(item)
