"""The operations that a network consists of, in order, and the module calls around them.

PyTorch is asked only which operation follows which: the network runs once on its meta device, where tensors have no data.
Weights and whatever else is free of the image appear as constants with their sizes. The sizes that PyTorch's own meta
kernels give are kept as `recorded`; no rule reads them, they are there to be compared with.
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
    """A tensor that depends on the image, by number."""

    index: int


@dataclass(frozen=True)
class Constant:
    """A tensor that does not."""

    shape: Shape


@dataclass(frozen=True)
class Node:
    """One operation: PyTorch's name for it, its arguments, the tensors it gives, the call it belongs to.

    `makes_memory` is False where the output lies in an input's place, as after a view or in place. An operation free
    of the image is noted only where it costs something: it gives no numbered tensor, but `free`, a constant.
    """

    op: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    outputs: tuple[Ref, ...]
    call: int
    makes_memory: bool
    free: Constant | None = None


@dataclass
class Call:
    """One call of one module. `parent` is the index of the call around it, -1 for the network itself."""

    path: str
    module: nn.Module
    parent: int
    number: int
    inputs: tuple[Ref, ...]
    outputs: tuple[Ref | None, ...] = ()


@dataclass
class Graph:
    """`calls` in the order in which they began; `recorded` has the sizes of each numbered tensor."""

    input_size: Shape
    image: Ref = Ref(0)
    nodes: list[Node] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    recorded: list[Shape] = field(default_factory=list)


def record(network: nn.Module, input_size: Sequence[int]) -> Graph:
    """Write down the graph of `network`, which must be on the meta device, for one image of (C, *axes).

    Raises:
        GeometryError: the network refuses that size; `layer` says where.
    """
    recorder = _Recorder(tuple(input_size))
    handles = [handle for path, module in network.named_modules() for handle in recorder.attach(path, module)]
    try:
        with recorder, torch.no_grad():
            network(recorder.image)
    except (AssertionError, RuntimeError, ValueError, IndexError, TypeError) as error:
        raise GeometryError(_sentence(error), layer=recorder.innermost) from error
    finally:
        for handle in handles:
            handle.remove()
    return recorder.graph


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self, input_size: Shape) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.graph = Graph(input_size)
        self.image = torch.empty(1, *input_size, device="meta")
        self._alive: list[Tensor] = []  # a freed tensor's id would be used again
        self._refs: dict[int, Ref] = {}
        self._written: set[int] = set()
        self._stack: list[int] = []
        self._numbers: defaultdict[str, Iterator[int]] = defaultdict(itertools.count)
        self._new(self.image)

    @property
    def innermost(self) -> str:
        return self.graph.calls[self._stack[-1]].path if self._stack else ""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, op = kwargs or {}, func.overloadpacket.__name__.removesuffix("_")
        noted_args, noted_kwargs = self._noted(args), self._noted(kwargs)
        sees_image = any(id(tensor) in self._refs for tensor in tensors_in((args, kwargs)))
        memory = {_place(tensor) for tensor in tensors_in((args, kwargs))}
        result = func(*args, **kwargs)
        if sees_image:
            outputs = list(tensors_in(result))
            makes_memory = any(_place(each) not in memory for each in outputs)
            if func._schema.is_mutable:
                self._overwrite(args[0])
            self._add(op, noted_args, noted_kwargs, outputs, makes_memory)
        elif op in MACS:
            free = Constant(tuple(result.shape))
            self.graph.nodes.append(Node(op, noted_args, noted_kwargs, (), self._call, makes_memory=False, free=free))
        return result

    @property
    def _call(self) -> int:
        return self._stack[-1] if self._stack else -1

    def _add(self, op: str, args: Any, kwargs: Any, outputs: Sequence[Tensor], makes_memory: bool) -> None:
        refs = tuple(self._new(each) for each in outputs)
        self.graph.nodes.append(Node(op, args, kwargs, refs, self._call, makes_memory))

    def _overwrite(self, target: Tensor) -> None:
        """An in-place operation changes every tensor in the same memory: what they hold now is not followed."""
        place = _place(target)
        self._written.add(place)
        for tensor in self._alive:
            if tensor is not target and _place(tensor) == place:
                self._refs.pop(id(tensor), None)

    def _new(self, tensor: Tensor) -> Ref:
        ref = Ref(len(self.graph.recorded))
        self.graph.recorded.append(tuple(tensor.shape))
        self._alive.append(tensor)
        self._refs[id(tensor)] = ref
        return ref

    def _ref(self, tensor: Tensor) -> Ref | None:
        """The tensor's number, if it depends on the image; one that others wrote to becomes an unknown."""
        if id(tensor) not in self._refs and _place(tensor) in self._written:
            self._add("writing through a view", (), {}, [tensor], makes_memory=False)
        return self._refs.get(id(tensor))

    def _noted(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            return self._ref(value) or Constant(tuple(value.shape))
        if isinstance(value, dict):
            return {key: self._noted(each) for key, each in value.items()}
        if isinstance(value, list | tuple):
            return type(value)(self._noted(each) for each in value)
        return value

    def attach(self, path: str, module: nn.Module) -> list[Any]:
        return [
            module.register_forward_pre_hook(self._before(path), with_kwargs=True),
            module.register_forward_hook(self._after()),
        ]

    def _before(self, path: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, kwargs: Any) -> None:
            given = list(tensors_in((args, kwargs)))
            refs = tuple(ref for ref in map(self._ref, given) if ref)
            call = Call(path, module, self._call, next(self._numbers[path]), refs)
            self._stack.append(len(self.graph.calls))
            self.graph.calls.append(call)

        return hook

    def _after(self) -> Callable[..., None]:
        def hook(module: nn.Module, _args: Any, result: Any) -> None:
            index = self._stack.pop()
            call = self.graph.calls[index]
            call.outputs = tuple(self._ref(each) for each in tensors_in(result))
            if isinstance(module, LocallyConnected1d | LocallyConnected2d):
                self._note_local(module, index)

        return hook

    def _note_local(self, layer: LocallyConnected1d | LocallyConnected2d, index: int) -> None:
        """A locally connected layer gathers by an index, from which no rule can read the window: say what it is."""
        windows = (layer.kernel_size, layer.stride, layer.padding, layer.dilation)
        call = self.graph.calls[index]
        args = (*call.inputs, layer.out_channels, *windows)
        outputs = tuple(ref for ref in call.outputs if ref)
        self.graph.nodes.append(Node("locally_connected", args, {}, outputs, index, makes_memory=False))


def _place(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _sentence(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__


def tensors_in(value: Any) -> Iterator[Tensor]:
    """Every tensor in nested lists, tuples and dicts, in order."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        yield from tensors_in(list(value.values()))
    elif isinstance(value, list | tuple):
        for each in value:
            yield from tensors_in(each)
