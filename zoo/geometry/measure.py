"""Every layer of a network at one input size: sizes, receptive fields, strides, costs."""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import nn

from zoo.geometry.costs import BYTES_PER_NUMBER, MACS
from zoo.geometry.fields import Field, fields_of
from zoo.geometry.graph import Call, Constant, Graph, Node, Ref, record
from zoo.geometry.rules import RULES, WINDOWS
from zoo.geometry.sizes import Window
from zoo.geometry.values import Value, constant, image
from zoo.layers import Removed

Shape = tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Layer:
    """One call of one module.

    `output` has the batch first, 1; it is None where an unknown operation leaves it unknown, and so is `fields`, which
    is empty for a tensor free of the image. `macs` and `memory_bytes` are those of one image and include what is
    called inside; a view and an in-place operation make no memory. `windows` are its own, not those inside.
    """

    path: str
    call: int
    level: int
    is_leaf: bool
    module: nn.Module
    inputs: tuple[Shape | None, ...]
    outputs: tuple[Shape | None, ...]
    fields: tuple[Field, ...] | None
    parameters: int
    macs: int
    memory_bytes: int
    windows: tuple[Window, ...]

    @property
    def name(self) -> str:
        """The path, with `@CALL` after the first call: the name in an export's layer map."""
        return self.path + (f"@{self.call}" if self.call else "")

    @property
    def kind(self) -> str:
        return type(self.module).__name__

    @property
    def is_left_out(self) -> bool:
        """Whether the layer itself was cut off, and its input is handed on in its place."""
        return isinstance(self.module, Removed)

    @property
    def output(self) -> Shape | None:
        return self.outputs[0] if self.outputs else None

    @property
    def unused(self) -> int:
        """Rows, padding included, that lie behind the last window."""
        return max((window.unused for window in self.windows), default=0)

    @property
    def lost(self) -> int:
        """Rows of the input itself that no window reaches."""
        return max((window.lost for window in self.windows), default=0)


@dataclass(frozen=True, eq=False)
class Geometry:
    """All layers in the order in which they are called; the network itself is the first, its path empty.

    `unknown` counts operations without a rule. `peak_bytes` is the most that is alive at once when one image passes
    through and every tensor is freed after its last use.
    """

    input_size: Shape
    layers: tuple[Layer, ...]
    parameters: int
    unknown: Mapping[str, int]
    peak_bytes: int

    @property
    def macs(self) -> int:
        return self.layers[0].macs

    @property
    def memory_bytes(self) -> int:
        """All that the layers give, as training keeps it."""
        return self.layers[0].memory_bytes

    @cached_property
    def _by_name(self) -> dict[str, Layer]:
        return {layer.name: layer for layer in self.layers}

    def __getitem__(self, name: str) -> Layer:
        return self._by_name[name]

    @property
    def sliding(self) -> tuple[Layer, ...]:
        """The layers with windows of their own, which a stride can fit or not."""
        return tuple(layer for layer in self.layers if layer.windows)

    @property
    def last_map(self) -> Layer | None:
        """The last layer, of those that are still there, whose output has channels and places: not a vector."""
        maps = [layer for layer in self.layers if layer.path and not layer.is_left_out and _is_map(layer.output)]
        return maps[-1] if maps else None


def _is_map(shape: Shape | None) -> bool:
    return shape is not None and sum(size > 1 for size in shape[1:]) > 1


def measure(network: nn.Module, input_size: Sequence[int]) -> Geometry:
    """The geometry of `network`, which must be on the meta device, for images of (C, *axes).

    Raises:
        GeometryError: the network refuses that size.
    """
    graph = record(network, input_size)
    ledger = _Ledger(graph)
    children = {call.parent for call in graph.calls}
    layers = tuple(ledger.layer(index, call, is_leaf=index not in children) for index, call in enumerate(graph.calls))
    parameters = sum(parameter.numel() for parameter in network.parameters())
    return Geometry(graph.input_size, layers, parameters, ledger.unknown, ledger.peak_bytes())


class _Ledger:
    """Follows the graph once, operation by operation, with nothing but rules and arithmetic."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._axes = len(graph.input_size) - 1
        self.values: dict[int, Value | None] = {graph.image.index: image(graph.input_size)}
        self.unknown: Counter[str] = Counter()
        count = len(graph.calls)
        self._macs, self._bytes = [0] * count, [0] * count
        self._windows: list[tuple[Window, ...]] = [()] * count
        self._memory = {graph.image.index: graph.image.index}  # tensor: the first tensor in the same memory
        for node in graph.nodes:
            self._follow(node)

    def _follow(self, node: Node) -> None:
        args = self._known(node.args)
        if node.free:
            self._charge(node, args, self._known(node.free))
            return
        found = self._apply(node, args)
        for ref, value in zip(node.outputs, found, strict=True):
            self.values[ref.index] = value
        self._place(node)
        if found and found[0] is not None:
            self._charge(node, args, found[0])

    def _apply(self, node: Node, args: Any) -> Sequence[Value | None]:
        """The outputs' values; None for each where an input or the operation is unknown."""
        if any(self.values[ref.index] is None for ref in _refs((node.args, node.kwargs))):
            return [None] * len(node.outputs)
        result = RULES[node.op](*args, **self._known(node.kwargs)) if node.op in RULES else None
        if result is None:
            self.unknown[node.op] += 1
        values = result if isinstance(result, tuple) else (result,)
        return [*values, *[None] * len(node.outputs)][: len(node.outputs)]  # a norm's statistics stay unknown

    def _known(self, value: Any) -> Any:
        """Arguments with what is known in place of tensors."""
        if isinstance(value, Ref):
            return self.values[value.index]
        if isinstance(value, Constant):
            return constant(value.shape, self._axes)
        if isinstance(value, dict):
            return {key: self._known(each) for key, each in value.items()}
        if isinstance(value, list | tuple):
            return type(value)(self._known(each) for each in value)
        return value

    def _charge(self, node: Node, args: Any, result: Value) -> None:
        macs = MACS[node.op](result, *args) if node.op in MACS else 0
        size = math.prod(result.shape) * BYTES_PER_NUMBER if node.makes_memory else 0
        if node.call >= 0 and node.op in WINDOWS and not _transposed(node):
            self._windows[node.call] += WINDOWS[node.op](*args[:6])
        call = node.call
        while call >= 0:
            self._macs[call] += macs
            self._bytes[call] += size
            call = self._graph.calls[call].parent

    def _place(self, node: Node) -> None:
        given = next(_refs(node.args), None)
        for ref in node.outputs:
            shared = None if node.makes_memory or given is None else self._memory[given.index]
            self._memory.setdefault(ref.index, ref.index if shared is None else shared)

    def peak_bytes(self) -> int:
        """The most bytes alive at once, an operation's inputs and outputs among them."""
        last = {self._memory[ref.index]: place for place, node in enumerate(self._graph.nodes) for ref in _used(node)}
        alive = {self._graph.image.index}
        peak = 0
        for place, node in enumerate(self._graph.nodes):
            alive |= {self._memory[ref.index] for ref in node.outputs[:1]}
            peak = max(peak, sum(map(self._size, alive)))
            alive -= {memory for memory in alive if last[memory] <= place}
        return peak

    def _size(self, index: int) -> int:
        value = self.values[index]
        return math.prod(value.shape) * BYTES_PER_NUMBER if value else 0

    def layer(self, index: int, call: Call, is_leaf: bool) -> Layer:
        values = [self.values[ref.index] if ref else None for ref in call.outputs]
        first = values[0] if values else None
        return Layer(
            path=call.path,
            call=call.number,
            level=self._level(call),
            is_leaf=is_leaf,
            module=call.module,
            inputs=tuple(value.shape if value else None for value in (self.values[ref.index] for ref in call.inputs)),
            outputs=tuple(value.shape if value else None for value in values),
            fields=fields_of(first, self._graph.input_size) if first else None,
            parameters=sum(parameter.numel() for parameter in call.module.parameters()),
            macs=self._macs[index],
            memory_bytes=self._bytes[index],
            windows=self._windows[index],
        )

    def _level(self, call: Call) -> int:
        return 0 if not call.path else call.path.count(".") + 1


def _transposed(node: Node) -> bool:
    return node.op == "convolution" and bool(node.args[6])


def _refs(value: Any) -> Iterator[Ref]:
    if isinstance(value, Ref):
        yield value
    elif isinstance(value, dict):
        yield from _refs(list(value.values()))
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _refs(each)


def _used(node: Node) -> Iterator[Ref]:
    yield from _refs((node.args, node.kwargs))
    yield from node.outputs
