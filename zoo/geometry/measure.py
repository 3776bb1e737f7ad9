"""Sizes, receptive fields, strides and costs of every layer of a network at one input size."""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import nn

from zoo.geometry.costs import BYTES_PER_NUMBER, MACS
from zoo.geometry.fields import ReceptiveField, fields_of
from zoo.geometry.graph import Call, Constant, Graph, Node, Ref, record
from zoo.geometry.rules import RULES, WINDOWS
from zoo.geometry.sizes import Window
from zoo.geometry.values import Value, constant, image
from zoo.layers import Removed

Shape = tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Layer:
    """One call of one module.

    Attributes:
        path: the module's path in the network; empty for the network itself.
        call: how many times the module had been called before.
        level: depth of the path; 0 for the network itself.
        is_leaf: whether the call contains no call of another module.
        module: the module.
        inputs: shapes of the inputs that depend on the image, with the batch (1) first; None if unknown.
        outputs: shapes of the outputs, likewise.
        fields: receptive fields of the first output, one per image axis; None if unknown, empty for a tensor that
            does not depend on the image.
        parameters: number of parameters, including those of the modules inside.
        macs: multiply-accumulates for one image, including those of the calls inside.
        memory_bytes: float32 bytes of the tensors created, including those of the calls inside; views and in-place
            operations create none.
        windows: sliding windows of this call itself, one per axis; not those of the calls inside.
    """

    path: str
    call: int
    level: int
    is_leaf: bool
    module: nn.Module
    inputs: tuple[Shape | None, ...]
    outputs: tuple[Shape | None, ...]
    fields: tuple[ReceptiveField, ...] | None
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
    def is_removed(self) -> bool:
        """Whether the layer was cut off the network, so that its input passes through unchanged."""
        return isinstance(self.module, Removed)

    @property
    def output(self) -> Shape | None:
        return self.outputs[0] if self.outputs else None

    @property
    def unused(self) -> int:
        """Rows, padding included, after the window's last position."""
        return max((window.unused for window in self.windows), default=0)

    @property
    def lost(self) -> int:
        """Rows of the input itself that no window covers."""
        return max((window.lost for window in self.windows), default=0)


@dataclass(frozen=True, eq=False)
class Geometry:
    """The layers of a network at one input size.

    Attributes:
        input_size: (C, *axes).
        layers: in the order of their calls; the first is the network itself, with an empty path.
        parameters: number of parameters of the network.
        unknown: how often each operation without a rule occurs, by PyTorch's name of the operation.
        peak_bytes: largest memory alive at once for one image, if every tensor is freed after its last use.
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
        """Bytes of all activations, as training keeps them."""
        return self.layers[0].memory_bytes

    @cached_property
    def _by_name(self) -> dict[str, Layer]:
        return {layer.name: layer for layer in self.layers}

    def __getitem__(self, name: str) -> Layer:
        return self._by_name[name]

    @property
    def sliding(self) -> tuple[Layer, ...]:
        """The layers with sliding windows of their own, whose stride may or may not be exact."""
        return tuple(layer for layer in self.layers if layer.windows)

    @property
    def last_map(self) -> Layer | None:
        """The last layer that was not removed and whose output is a feature map, not a vector."""
        maps = [layer for layer in self.layers if layer.path and not layer.is_removed and _is_map(layer.output)]
        return maps[-1] if maps else None


def _is_map(shape: Shape | None) -> bool:
    return shape is not None and sum(size > 1 for size in shape[1:]) > 1


def measure(network: nn.Module, input_size: Sequence[int]) -> Geometry:
    """Return the geometry of `network`, which must be on the meta device, for images of (C, *axes).

    Raises:
        GeometryError: the network does not accept that size.
    """
    graph = record(network, input_size)
    evaluation = _Evaluation(graph)
    parents = {call.parent for call in graph.calls}
    layers = tuple(evaluation.layer(index, is_leaf=index not in parents) for index in range(len(graph.calls)))
    parameters = sum(parameter.numel() for parameter in network.parameters())
    return Geometry(graph.input_size, layers, parameters, evaluation.unknown, evaluation.peak_bytes())


class _Evaluation:
    """Symbolic evaluation of a graph, operation by operation, by rules and arithmetic alone."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._axes = len(graph.input_size) - 1
        self._values: dict[int, Value | None] = {graph.image.index: image(graph.input_size)}
        self.unknown: Counter[str] = Counter()
        count = len(graph.calls)
        self._macs, self._bytes = [0] * count, [0] * count
        self._windows: list[tuple[Window, ...]] = [()] * count
        self._memory = {graph.image.index: graph.image.index}  # tensor: the first tensor in the same memory
        for node in graph.nodes:
            self._evaluate(node)

    def _evaluate(self, node: Node) -> None:
        args = self._with_values(node.args)
        if node.constant:
            self._add_costs(node, args, self._with_values(node.constant))
            return
        outputs = self._apply_rule(node, args)
        for ref, value in zip(node.outputs, outputs, strict=True):
            self._values[ref.index] = value
        self._assign_memory(node)
        if outputs and outputs[0] is not None:
            self._add_costs(node, args, outputs[0])

    def _apply_rule(self, node: Node, args: Any) -> Sequence[Value | None]:
        """Return the values of the outputs; None for each if an input or the operation is unknown."""
        if any(self._values[ref.index] is None for ref in _refs((node.args, node.kwargs))):
            return [None] * len(node.outputs)
        result = RULES[node.op](*args, **self._with_values(node.kwargs)) if node.op in RULES else None
        if result is None:
            self.unknown[node.op] += 1
        values = result if isinstance(result, tuple) else (result,)
        return [*values, *[None] * len(node.outputs)][: len(node.outputs)]  # a norm's statistics stay unknown

    def _with_values(self, argument: Any) -> Any:
        """Return nested arguments with symbolic values in place of tensors."""
        if isinstance(argument, Ref):
            return self._values[argument.index]
        if isinstance(argument, Constant):
            return constant(argument.shape, self._axes)
        if isinstance(argument, dict):
            return {key: self._with_values(item) for key, item in argument.items()}
        if isinstance(argument, list | tuple):
            return type(argument)(self._with_values(item) for item in argument)
        return argument

    def _add_costs(self, node: Node, args: Any, result: Value) -> None:
        """Add MACs and bytes to the node's call and all calls around it, and windows to the call itself."""
        macs = MACS[node.op](result, *args) if node.op in MACS else 0
        size = math.prod(result.shape) * BYTES_PER_NUMBER if node.makes_memory else 0
        if node.call >= 0 and node.op in WINDOWS and not _is_transposed(node):
            self._windows[node.call] += WINDOWS[node.op](*args[:6])
        call = node.call
        while call >= 0:
            self._macs[call] += macs
            self._bytes[call] += size
            call = self._graph.calls[call].parent

    def _assign_memory(self, node: Node) -> None:
        first_input = next(_refs(node.args), None)
        for ref in node.outputs:
            shared = None if node.makes_memory or first_input is None else self._memory[first_input.index]
            self._memory.setdefault(ref.index, ref.index if shared is None else shared)

    def peak_bytes(self) -> int:
        """Return the most bytes alive at once, counting the inputs and outputs of the running operation."""
        nodes = self._graph.nodes
        last_use = {self._memory[ref.index]: step for step, node in enumerate(nodes) for ref in _used(node)}
        alive = {self._graph.image.index}
        peak = 0
        for step, node in enumerate(nodes):
            alive |= {self._memory[ref.index] for ref in node.outputs[:1]}
            peak = max(peak, sum(map(self._size, alive)))
            alive -= {memory for memory in alive if last_use[memory] <= step}
        return peak

    def _size(self, index: int) -> int:
        value = self._values[index]
        return math.prod(value.shape) * BYTES_PER_NUMBER if value else 0

    def layer(self, index: int, is_leaf: bool) -> Layer:
        call = self._graph.calls[index]
        outputs = [self._values[ref.index] if ref else None for ref in call.outputs]
        first = outputs[0] if outputs else None
        return Layer(
            path=call.path,
            call=call.number,
            level=call.path.count(".") + 1 if call.path else 0,
            is_leaf=is_leaf,
            module=call.module,
            inputs=self._input_shapes(call),
            outputs=tuple(value.shape if value else None for value in outputs),
            fields=fields_of(first, self._graph.input_size) if first else None,
            parameters=sum(parameter.numel() for parameter in call.module.parameters()),
            macs=self._macs[index],
            memory_bytes=self._bytes[index],
            windows=self._windows[index],
        )

    def _input_shapes(self, call: Call) -> tuple[Shape | None, ...]:
        values = (self._values[ref.index] for ref in call.inputs)
        return tuple(value.shape if value else None for value in values)


def _is_transposed(node: Node) -> bool:
    return node.op == "convolution" and bool(node.args[6])


def _refs(argument: Any) -> Iterator[Ref]:
    """Yield every reference in nested arguments, in order."""
    if isinstance(argument, Ref):
        yield argument
    elif isinstance(argument, dict):
        yield from _refs(list(argument.values()))
    elif isinstance(argument, list | tuple):
        for item in argument:
            yield from _refs(item)


def _used(node: Node) -> Iterator[Ref]:
    yield from _refs((node.args, node.kwargs))
    yield from node.outputs
