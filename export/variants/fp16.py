"""Builds the float16 variant, in which nodes stay float32 if float16 would overflow or lose too much precision.

All other values of the network become float16; inputs and outputs keep their types. The nodes that must stay float32
are determined by measuring a graph that rounds every value as a device with float16 does. Measuring the float16 model
itself would not suffice: a CPU without float16 computes in float32 between two conversions, and hides the errors that a
GPU makes.

Requires: an exported model without nested graphs, and images.
Ensures: the value of a layer keeps its name; the bytes are the same in every run.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from export.errors import VariantError
from export.variants.graph import bare_copy, drop_unused_weights, replace_nodes, sort_nodes

HALF_MAX = 65504.0  # the largest float16
HALF, SINGLE = TensorProto.FLOAT16, TensorProto.FLOAT
OPS_WITH_DTYPE = (
    "EyeLike",
    "RandomNormal",
    "RandomUniform",
    "RandomNormalLike",
    "RandomUniformLike",
    "Bernoulli",
    "Multinomial",
)
MIN_SQNR_DB = 40.0  # of any layer: one rounding to 11 bits has about 65 dB
MAX_STEPS = 12  # of the search for nodes that must stay float32
MAX_DEPTH = 3  # longest chain of nodes that stay float32 for the sake of the last one
MIN_GAIN_DB = 6.0  # one bit: a smaller gain is not worth a conversion
ByName = Mapping[str, float]
MeasureSqnr = Callable[[onnx.ModelProto], ByName]


@dataclass(frozen=True)
class Fp16Result:
    """A model in float16.

    Attributes:
        model: The converted model.
        float32_nodes: Names of the nodes that stayed float32, in order, with the reasons.
    """

    model: onnx.ModelProto
    float32_nodes: Mapping[str, str]


def halve(
    model: onnx.ModelProto, largest: ByName, measure_sqnr: MeasureSqnr, interface_nodes: Collection[str]
) -> Fp16Result:
    """Convert `model` to float16, except `interface_nodes` and the nodes that overflow or lose too much precision.

    `largest` is the largest magnitude of each float32 value; `measure_sqnr` returns the SQNR in dB of the values of a
    model that rounds like float16. Raises: VariantError.
    """
    _require_convertible(model)
    float32_nodes = dict.fromkeys(interface_nodes, "normalises images or computes probabilities")
    for name, magnitude in _overflowing_nodes(model, largest).items():
        float32_nodes.setdefault(name, f"reaches {magnitude:.3g}")
    _require_small_weights(model, float32_nodes)
    float32_nodes = _add_measured_nodes(model, measure_sqnr, float32_nodes)
    return Fp16Result(to_half(model, float32_nodes), float32_nodes)


def _add_measured_nodes(
    model: onnx.ModelProto, measure_sqnr: MeasureSqnr, float32_nodes: dict[str, str]
) -> dict[str, str]:
    """Add, in graph order, each node whose SQNR is too low in float16, with its producers if it needs them."""
    sqnr = measure_sqnr(rounding_model(model, float32_nodes))
    unimprovable: set[str] = set()
    for _ in range(MAX_STEPS):
        name = _first_poor_node(model, sqnr, {*float32_nodes, *unimprovable})
        if name is None:
            break
        node_sqnr = _node_sqnr(model, name, sqnr)
        for depth in range(MAX_DEPTH):
            reason = f"'{name}' has {node_sqnr:.1f} dB in float16"
            trial = {**dict.fromkeys(_with_producers(model, name, depth), reason), **float32_nodes}
            trial_sqnr = measure_sqnr(rounding_model(model, trial))
            if _node_sqnr(model, name, trial_sqnr) >= node_sqnr + MIN_GAIN_DB:
                float32_nodes, sqnr = trial, trial_sqnr
                break
        else:
            unimprovable.add(name)
    return float32_nodes


def _with_producers(model: onnx.ModelProto, name: str, depth: int) -> list[str]:
    """Return the node and its producers up to `depth` steps back, in the order of the graph."""
    producer = {output: node for node in model.graph.node for output in node.output}
    names = {name}
    for _ in range(depth):
        inputs = [value for node in model.graph.node if node.name in names for value in node.input]
        names |= {producer[value].name for value in inputs if value in producer}
    return [node.name for node in model.graph.node if node.name in names]


def to_half(model: onnx.ModelProto, float32_nodes: Collection[str]) -> onnx.ModelProto:
    """Return `model` in float16, except the nodes named in `float32_nodes`."""
    half = _Converter(model, float32_nodes).convert()
    onnx.checker.check_model(half, full_check=True)
    return half


def rounding_model(model: onnx.ModelProto, float32_nodes: Collection[str]) -> onnx.ModelProto:
    """Return a float32 model that computes the results of `to_half` on a device with float16 and float32 sums."""
    rounded = bare_copy(model)
    graph = rounded.graph
    floats = _float_values(model)
    used = {name for node in model.graph.node if node.name not in float32_nodes for name in node.input}
    for weight in graph.initializer:
        if weight.data_type == SINGLE and weight.name in used and weight.name in floats:
            weight.CopyFrom(numpy_helper.from_array(_half_array(weight).astype(np.float32), weight.name))
    nodes = list(graph.node)
    del graph.node[:]
    for node in nodes:
        rounded_outputs = [] if node.name in float32_nodes else [name for name in node.output if name in floats]
        node.output[:] = [f"{name}/exact" if name in rounded_outputs else name for name in node.output]
        graph.node.append(node)
        graph.node.extend(
            helper.make_node("Round16", [f"{name}/exact"], [name], domain="zoonnx") for name in rounded_outputs
        )
    rounded.functions.append(_round16_function(model))
    rounded.opset_import.append(helper.make_opsetid("zoonnx", 1))
    return rounded


class _Converter:
    """Converts a model node by node, and inserts a Cast where a node needs a value in the other type."""

    def __init__(self, model: onnx.ModelProto, float32_nodes: Collection[str]) -> None:
        self._model = bare_copy(model)
        self._float32_nodes = float32_nodes
        self._floats = _float_values(model)
        self._outputs = {output.name for output in model.graph.output}
        self._weights = {weight.name: weight for weight in model.graph.initializer}
        self._types: dict[str, int] = {info.name: SINGLE for info in model.graph.input}
        self._names: dict[tuple[str, int], str] = {}  # the name of a value in a type
        self._nodes: list[onnx.NodeProto] = []

    def convert(self) -> onnx.ModelProto:
        graph = self._model.graph
        for node in list(graph.node):
            self._convert_node(node)
        replace_nodes(graph, self._nodes)
        for output in graph.output:
            if output.name in self._floats:
                self._name_in_type(output.name, SINGLE)
        replace_nodes(graph, self._nodes)
        sort_nodes(graph)
        drop_unused_weights(graph)
        return self._model

    def _convert_node(self, node: onnx.NodeProto) -> None:
        node_type = SINGLE if node.name in self._float32_nodes else HALF
        float32_inputs = _float32_inputs(node, self._model)
        for index, name in enumerate(node.input):
            if name in self._floats:
                node.input[index] = self._name_in_type(name, SINGLE if index in float32_inputs else node_type)
        if node_type == HALF:
            _convert_attributes(node)
        for index, name in enumerate(node.output):
            if name in self._floats:
                node.output[index] = self._declare_output(name, node_type)
        self._nodes.append(node)

    def _declare_output(self, name: str, node_type: int) -> str:
        """Return the new name of a node's output; a float16 output of the model is later cast to its original name."""
        output = f"{name}/half" if name in self._outputs and node_type == HALF else name
        self._types[name] = node_type
        self._names[name, node_type] = output
        return output

    def _name_in_type(self, name: str, target_type: int) -> str:
        """Return the name of the value `name` in the type `target_type`; add a Cast if it does not exist yet."""
        if (name, target_type) in self._names:
            return self._names[name, target_type]
        if name in self._weights:
            return self._weight_in_type(name, target_type)
        current = self._types[name]
        if current == target_type:
            return name
        if name in self._outputs and target_type == SINGLE:
            converted = name
        else:
            converted = f"{name}/{'half' if target_type == HALF else 'single'}"
        source = self._names.get((name, current), name)
        self._nodes.append(helper.make_node("Cast", [source], [converted], f"{converted}/cast", to=target_type))
        self._names[name, target_type] = converted
        return converted

    def _weight_in_type(self, name: str, target_type: int) -> str:
        converted = name if target_type == SINGLE else f"{name}/half"
        if target_type == HALF:
            half = numpy_helper.from_array(_half_array(self._weights[name]), converted)
            self._model.graph.initializer.append(half)
        self._names[name, target_type] = converted
        return converted


def _half_array(weight: onnx.TensorProto) -> npt.NDArray[np.float16]:
    """Return a weight as float16. Raises: VariantError if it is too large."""
    array = numpy_helper.to_array(weight)
    if array.size and float(np.max(np.abs(array))) > HALF_MAX:
        raise VariantError(
            f"fp16: the weight '{weight.name}' reaches {np.max(np.abs(array)):.3g}, over {HALF_MAX:.0f}."
        )
    return array.astype(np.float16)


def _convert_attributes(node: onnx.NodeProto) -> None:
    for attribute in node.attribute:
        if attribute.name == "to" and node.op_type == "Cast" and attribute.i == SINGLE:
            attribute.i = HALF
        if attribute.type == onnx.AttributeProto.TENSOR and attribute.t.data_type == SINGLE:
            attribute.t.CopyFrom(numpy_helper.from_array(_half_array(attribute.t), attribute.t.name))


def _float32_inputs(node: onnx.NodeProto, model: onnx.ModelProto) -> set[int]:
    """Return the indices of inputs that ONNX requires to be float32, such as the scales of Resize."""
    version = next(entry.version for entry in model.opset_import if entry.domain == node.domain)
    schema = onnx.defs.get_schema(node.op_type, version, node.domain)
    return {index for index, parameter in enumerate(schema.inputs) if parameter.type_str == "tensor(float)"}


def _float_values(model: onnx.ModelProto) -> set[str]:
    """Return the names of the float32 values and weights of the graph."""
    inferred = onnx.shape_inference.infer_shapes(bare_copy(model), strict_mode=True, data_prop=True).graph
    infos = [*inferred.input, *inferred.output, *inferred.value_info]
    return {info.name for info in infos if info.type.tensor_type.elem_type == SINGLE} | {
        weight.name for weight in model.graph.initializer if weight.data_type == SINGLE
    }


def _require_convertible(model: onnx.ModelProto) -> None:
    for node in model.graph.node:
        has_graph = any(attribute.g.node or attribute.graphs for attribute in node.attribute)
        if node.op_type in OPS_WITH_DTYPE or has_graph:
            raise VariantError(f"fp16: the node '{node.name}' ({node.op_type}) cannot be converted.")


def _require_small_weights(model: onnx.ModelProto, float32_nodes: Collection[str]) -> None:
    """Reject a weight that float16 cannot represent; the error names the value that is computed from it."""
    floats = [weight for weight in model.graph.initializer if weight.data_type == SINGLE]
    magnitudes = {weight.name: float(np.max(np.abs(numpy_helper.to_array(weight)), initial=0.0)) for weight in floats}
    large = {name: magnitude for name, magnitude in magnitudes.items() if magnitude > HALF_MAX}
    for node in model.graph.node:
        for name in large.keys() & set(node.input):
            if node.name not in float32_nodes:
                raise VariantError(
                    f"fp16: the weight '{name}' of '{node.output[0]}' ({node.op_type}) reaches {large[name]:.3g}, "
                    f"over {HALF_MAX:.0f}."
                )


def _overflowing_nodes(model: onnx.ModelProto, largest: ByName) -> dict[str, float]:
    """Return the nodes with an input or output that float16 cannot represent, and its magnitude."""
    overflowing = {}
    for node in model.graph.node:
        magnitude = max((largest.get(name, 0.0) for name in [*node.output, *node.input]), default=0.0)
        if magnitude > HALF_MAX:
            overflowing[node.name] = magnitude
    return overflowing


def _node_sqnr(model: onnx.ModelProto, name: str, sqnr: ByName) -> float:
    node = next(node for node in model.graph.node if node.name == name)
    return min(sqnr[output] for output in node.output if output in sqnr)


def _first_poor_node(model: onnx.ModelProto, sqnr: ByName, excluded: Collection[str]) -> str | None:
    """Return the first node, in the order of the graph, whose SQNR is below MIN_SQNR_DB."""
    for node in model.graph.node:
        output_sqnr = [sqnr[name] for name in node.output if name in sqnr]
        if node.name not in excluded and output_sqnr and min(output_sqnr) < MIN_SQNR_DB:
            return node.name
    return None


def _round16_function(model: onnx.ModelProto) -> onnx.FunctionProto:
    """Return a function that rounds to the 11 bits of float16 in float32 arithmetic, which no optimiser removes.

    Normal numbers by Dekker's splitting with 2**13 + 1; below 2**-14 to multiples of 2**-24; infinite from 65520 on.
    """
    constants = {"split": 8193.0, "tiny": 2.0**-14, "fine": 2.0**24, "step": 2.0**-24, "limit": 65520.0, "inf": np.inf}
    nodes = [
        helper.make_node("Constant", [], [name], value=numpy_helper.from_array(np.array(value, np.float32), name))
        for name, value in constants.items()
    ]
    steps = [
        ("Mul", ["x", "split"], "scaled"), ("Sub", ["x", "scaled"], "rest"), ("Add", ["rest", "scaled"], "normal"),
        ("Mul", ["x", "fine"], "steps"), ("Round", ["steps"], "nearest"), ("Mul", ["nearest", "step"], "subnormal"),
        ("Abs", ["x"], "size"), ("Less", ["size", "tiny"], "is_tiny"),
        ("Where", ["is_tiny", "subnormal", "normal"], "finite"), ("Sign", ["x"], "sign"),
        ("Mul", ["sign", "inf"], "overflow"), ("Less", ["size", "limit"], "is_finite"),
        ("Where", ["is_finite", "finite", "overflow"], "y"),
    ]  # fmt: skip
    nodes += [helper.make_node(op, inputs, [output]) for op, inputs, output in steps]
    opset = [entry for entry in model.opset_import if entry.domain == ""]
    return helper.make_function("zoonnx", "Round16", ["x"], ["y"], nodes, opset)
