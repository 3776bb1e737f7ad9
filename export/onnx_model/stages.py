"""Runs a model without optimisation and yields the values of its nodes, those of a few nodes at a time.

All values of a large model for a few images can take gigabytes.

Requires: a model that onnxruntime supports.
Ensures: every value that is a tensor is yielded once, in the order of the nodes, and equals that of one run of the
whole model; other values, such as sequences, are not.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import onnx
from onnx import helper

from export.arrays import Array
from export.onnx_model.runtime import Runtime

NODES = 32  # of a stage


@dataclass(frozen=True)
class _Stage:
    """Consecutive nodes.

    Attributes:
        nodes: The nodes.
        needed: The values that the nodes accept and do not compute.
        computed: The values that the nodes compute.
    """

    nodes: Sequence[onnx.NodeProto]
    needed: frozenset[str]
    computed: tuple[str, ...]


class StagedRuntime:
    """A model in stages; each stage is loaded when it first runs."""

    def __init__(self, model: onnx.ModelProto, nodes: int = NODES) -> None:
        self._model, self._size = model, nodes
        self._runtimes: dict[int, Runtime] = {}

    def run(self, inputs: Mapping[str, Array]) -> Iterator[dict[str, Array]]:
        """Yield the values of each stage by name, in a dict that the next stage empties. Raises: ConversionError."""
        carried = dict(inputs)
        for index, stage in enumerate(self._stages):
            feeds = {name: value for name, value in carried.items() if name in stage.needed}
            values = self._runtime(index, feeds).run(feeds, stage.computed)
            later = {name for later_stage in self._stages[index + 1 :] for name in later_stage.needed}
            carried = {name: value for name, value in (carried | values).items() if name in later}
            del feeds
            for name in [name for name, value in values.items() if not isinstance(value, np.ndarray)]:
                del values[name]
            yield values
            values.clear()

    @cached_property
    def _stages(self) -> list[_Stage]:
        nodes = self._model.graph.node
        size = self._size if all(map(_computes_tensors, nodes)) else len(nodes)
        return [_stage(nodes[start : start + size]) for start in range(0, len(nodes), size)]

    def _runtime(self, index: int, feeds: Mapping[str, Array]) -> Runtime:
        if index not in self._runtimes:
            self._runtimes[index] = Runtime(self._part(self._stages[index], feeds), optimise=False)
        return self._runtimes[index]

    def _part(self, stage: _Stage, feeds: Mapping[str, Array]) -> onnx.ModelProto:
        """Return the model of one stage, with the types of `feeds`, of any shape."""
        inputs = [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), None)
            for name, value in feeds.items()
        ]
        weights = [weight for weight in self._model.graph.initializer if weight.name in stage.needed]
        outputs = [onnx.ValueInfoProto(name=name) for name in stage.computed]
        graph = helper.make_graph(stage.nodes, self._model.graph.name or "stage", inputs, outputs, weights)
        return helper.make_model(
            graph,
            opset_imports=self._model.opset_import,
            functions=self._model.functions,
            ir_version=self._model.ir_version,
        )


def _stage(nodes: Sequence[onnx.NodeProto]) -> _Stage:
    computed = tuple(dict.fromkeys(name for node in nodes for name in node.output if name))
    needed = {name for node in nodes for name in _accepted(node)}
    return _Stage(nodes, frozenset(needed - {*computed, ""}), computed)


def _accepted(node: onnx.NodeProto) -> Iterator[str]:
    """Yield the values that a node accepts, and those that the graphs of its branches or loops use from outside."""
    yield from node.input
    for attribute in node.attribute:
        for graph in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
            own = {value.name for value in graph.input} | {weight.name for weight in graph.initializer}
            own |= {name for inner in graph.node for name in inner.output}
            yield from (name for inner in graph.node for name in _accepted(inner) if name not in own)
            yield from (output.name for output in graph.output if output.name not in own)


def _computes_tensors(node: onnx.NodeProto) -> bool:
    return "Sequence" not in node.op_type and "Optional" not in node.op_type
