"""Half precision, with islands of float32 where it would overflow or lose too much.

Every value of the network becomes float16; inputs and outputs keep their types. An island is a node that still computes in
float32. Where islands must be is measured, in a graph that rounds every value as a device with float16 would: a CPU
without it computes in float32 between two conversions, and so hides what a GPU would give.

Requires: an exported model without nested graphs, and images.
Ensures: a layer's value keeps its name; the bytes are the same in every run.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from export.errors import VariantError
from export.variants.graph import bare_copy, drop_unused_weights, sort_nodes

HALF_MAX = 65504.0
HALF, SINGLE = TensorProto.FLOAT16, TensorProto.FLOAT
TYPED = (
    "EyeLike",
    "RandomNormal",
    "RandomUniform",
    "RandomNormalLike",
    "RandomUniformLike",
    "Bernoulli",
    "Multinomial",
)
LEAST_SQNR_DB = 40.0  # of any layer: 11 bits give about 65 dB at one rounding
MAX_ISLANDS = 12
MAX_DEPTH = 3
GAIN_DB = 6.0  # one bit: less is not worth a conversion
Measured = Mapping[str, float]
Measure = Callable[[onnx.ModelProto], Measured]


@dataclass(frozen=True)
class Fp16Result:
    """A model in float16, and the names of the nodes that stayed float32, in order, each with why."""

    model: onnx.ModelProto
    islands: Mapping[str, str]


def halve(model: onnx.ModelProto, largest: Measured, sqnr_db: Measure, kept: Collection[str]) -> Fp16Result:
    """Convert `model`. Nodes in `kept` stay float32, and so do those that measuring finds.

    `largest` is the largest magnitude of each float32 value; `sqnr_db` measures the values of a model that rounds
    like float16. Raises: VariantError.
    """
    _require_flat(model)
    islands = dict.fromkeys(kept, "reads images or gives probabilities")
    islands |= {name: f"reaches {top:.3g}" for name, top in _overflowing(model, largest).items() if name not in islands}
    _require_small(model, islands)
    islands = _with_measured_islands(model, sqnr_db, islands)
    return Fp16Result(to_half(model, islands), islands)


def _with_measured_islands(model: onnx.ModelProto, sqnr_db: Measure, islands: dict[str, str]) -> dict[str, str]:
    """Add, from the front, each node that float16 spoils, with the nodes before it where that is what helps."""
    measured = sqnr_db(rounding_model(model, islands))
    tolerated: set[str] = set()
    for _ in range(MAX_ISLANDS):
        name = _first_poor(model, measured, {*islands, *tolerated})
        if name is None:
            break
        poor = _value_sqnr(model, name, measured)
        for depth in range(MAX_DEPTH):
            added = dict.fromkeys(_before(model, name, depth), f"'{name}' is at {poor:.1f} dB in float16")
            trial = {**added, **islands}
            again = sqnr_db(rounding_model(model, trial))
            if _value_sqnr(model, name, again) >= poor + GAIN_DB:
                islands, measured = trial, again
                break
        else:
            tolerated.add(name)
    return islands


def _before(model: onnx.ModelProto, name: str, depth: int) -> list[str]:
    """The node and, so many steps back, those whose values it takes, in the graph's order."""
    made_by = {output: node for node in model.graph.node for output in node.output}
    found = {name}
    for _ in range(depth):
        taken = [each for node in model.graph.node if node.name in found for each in node.input]
        found |= {made_by[each].name for each in taken if each in made_by}
    return [node.name for node in model.graph.node if node.name in found]


def to_half(model: onnx.ModelProto, islands: Collection[str]) -> onnx.ModelProto:
    """Return `model` in float16 but for the nodes named in `islands`."""
    half = _Halver(model, islands).converted()
    onnx.checker.check_model(half, full_check=True)
    return half


def rounding_model(model: onnx.ModelProto, islands: Collection[str]) -> onnx.ModelProto:
    """Return a float32 model that gives what `to_half` gives on a device with float16, summing in float32."""
    rounded = bare_copy(model)
    graph = rounded.graph
    floats = _float_values(model)
    used = {name for node in model.graph.node if node.name not in islands for name in node.input}
    for weight in graph.initializer:
        if weight.data_type == SINGLE and weight.name in used and weight.name in floats:
            weight.CopyFrom(numpy_helper.from_array(_half(weight).astype(np.float32), weight.name))
    nodes = list(graph.node)
    del graph.node[:]
    for node in nodes:
        graph.node.append(node)
        for index, name in enumerate(node.output):
            if node.name not in islands and name in floats:
                graph.node[-1].output[index] = f"{name}/exact"
                graph.node.extend([helper.make_node("Round16", [f"{name}/exact"], [name], domain="zoonnx")])
    rounded.functions.append(_round16(model))
    rounded.opset_import.append(helper.make_opsetid("zoonnx", 1))
    return rounded


class _Halver:
    def __init__(self, model: onnx.ModelProto, islands: Collection[str]) -> None:
        self._model = bare_copy(model)
        self._islands = islands
        self._floats = _float_values(model)
        self._outputs = {output.name for output in model.graph.output}
        self._weights = {weight.name: weight for weight in model.graph.initializer}
        self._types: dict[str, int] = {info.name: SINGLE for info in model.graph.input}
        self._made: dict[tuple[str, int], str] = {}
        self._nodes: list[onnx.NodeProto] = []

    def converted(self) -> onnx.ModelProto:
        graph = self._model.graph
        for node in list(graph.node):
            self._convert(node)
        del graph.node[:]
        graph.node.extend(self._nodes)
        for output in graph.output:
            if output.name in self._floats:
                self._as(output.name, SINGLE)
        del graph.node[:]
        graph.node.extend(self._nodes)
        sort_nodes(graph)
        drop_unused_weights(graph)
        return self._model

    def _convert(self, node: onnx.NodeProto) -> None:
        wanted = SINGLE if node.name in self._islands else HALF
        fixed = _fixed_inputs(node, self._model)
        for index, name in enumerate(node.input):
            if name in self._floats:
                node.input[index] = self._as(name, SINGLE if index in fixed else wanted)
        if wanted == HALF:
            _halve_attributes(node)
        for index, name in enumerate(node.output):
            if name in self._floats:
                node.output[index] = self._give(name, wanted)
        self._nodes.append(node)

    def _give(self, name: str, wanted: int) -> str:
        """The name under which a node gives a value: a half output of the model is cast under its own."""
        given = f"{name}/half" if name in self._outputs and wanted == HALF else name
        self._types[name] = wanted
        self._made[name, wanted] = given
        return given

    def _as(self, name: str, wanted: int) -> str:
        """The name under which `name` has the type `wanted`; made on the way where there is none."""
        if (name, wanted) in self._made:
            return self._made[name, wanted]
        if name in self._weights:
            return self._weight(name, wanted)
        has = self._types[name]
        if has == wanted:
            return name
        made = (
            name if name in self._outputs and wanted == SINGLE else f"{name}/{'half' if wanted == HALF else 'single'}"
        )
        cast = helper.make_node("Cast", [self._made.get((name, has), name)], [made], f"{made}/cast", to=wanted)
        self._nodes.append(cast)
        self._made[name, wanted] = made
        return made

    def _weight(self, name: str, wanted: int) -> str:
        made = name if wanted == SINGLE else f"{name}/half"
        if wanted == HALF:
            self._model.graph.initializer.append(numpy_helper.from_array(_half(self._weights[name]), made))
        self._made[name, wanted] = made
        return made


def _half(weight: onnx.TensorProto) -> npt.NDArray[np.float16]:
    """A weight in float16. Raises: VariantError where it is too large."""
    array = numpy_helper.to_array(weight)
    if array.size and float(np.max(np.abs(array))) > HALF_MAX:
        raise VariantError(
            f"fp16: the weight '{weight.name}' reaches {np.max(np.abs(array)):.3g}, over {HALF_MAX:.0f}."
        )
    return array.astype(np.float16)


def _halve_attributes(node: onnx.NodeProto) -> None:
    for attribute in node.attribute:
        if attribute.name == "to" and node.op_type == "Cast" and attribute.i == SINGLE:
            attribute.i = HALF
        if attribute.type == onnx.AttributeProto.TENSOR and attribute.t.data_type == SINGLE:
            attribute.t.CopyFrom(numpy_helper.from_array(_half(attribute.t), attribute.t.name))


def _fixed_inputs(node: onnx.NodeProto, model: onnx.ModelProto) -> set[int]:
    """The inputs that must be float32 whatever the others are, such as Resize's scales."""
    version = next(entry.version for entry in model.opset_import if entry.domain == node.domain)
    schema = onnx.defs.get_schema(node.op_type, version, node.domain)
    return {index for index, each in enumerate(schema.inputs) if each.type_str == "tensor(float)"}


def _float_values(model: onnx.ModelProto) -> set[str]:
    """The float32 values and weights of the graph."""
    inferred = onnx.shape_inference.infer_shapes(bare_copy(model), strict_mode=True, data_prop=True).graph
    infos = [*inferred.input, *inferred.output, *inferred.value_info]
    return {info.name for info in infos if info.type.tensor_type.elem_type == SINGLE} | {
        weight.name for weight in model.graph.initializer if weight.data_type == SINGLE
    }


def _require_flat(model: onnx.ModelProto) -> None:
    for node in model.graph.node:
        if node.op_type in TYPED or any(each.g.node or each.graphs for each in node.attribute):
            raise VariantError(f"fp16: the node '{node.name}' ({node.op_type}) cannot be converted.")


def _require_small(model: onnx.ModelProto, islands: Collection[str]) -> None:
    """Refuse a weight that float16 cannot hold, by what the node that takes it gives, which bears its layer's name."""
    large = {w.name: _top(w) for w in model.graph.initializer if w.data_type == SINGLE and _top(w) > HALF_MAX}
    for node in model.graph.node:
        for name in large.keys() & set(node.input):
            if node.name not in islands:
                raise VariantError(
                    f"fp16: the weight '{name}' that gives '{node.output[0]}' ({node.op_type}) reaches "
                    f"{large[name]:.3g}, over {HALF_MAX:.0f}."
                )


def _top(weight: onnx.TensorProto) -> float:
    return float(np.max(np.abs(numpy_helper.to_array(weight)), initial=0.0))


def _overflowing(model: onnx.ModelProto, largest: Measured) -> dict[str, float]:
    """The nodes that give or take what float16 cannot hold, with how large it gets."""
    found = {}
    for node in model.graph.node:
        top = max((largest.get(name, 0.0) for name in [*node.output, *node.input]), default=0.0)
        if top > HALF_MAX:
            found[node.name] = top
    return found


def _value_sqnr(model: onnx.ModelProto, name: str, measured: Measured) -> float:
    node = next(node for node in model.graph.node if node.name == name)
    return min(measured[output] for output in node.output if output in measured)


def _first_poor(model: onnx.ModelProto, measured: Measured, islands: Collection[str]) -> str | None:
    """The first node in order that falls below what a layer may lose."""
    for node in model.graph.node:
        known = [measured[name] for name in node.output if name in measured]
        if node.name not in islands and known and min(known) < LEAST_SQNR_DB:
            return node.name
    return None


def _round16(model: onnx.ModelProto) -> onnx.FunctionProto:
    """Rounding to float16's 11 bits, in float32 arithmetic that no optimiser takes away.

    Normal numbers by Dekker's splitting with 2**13 + 1; below 2**-14 to multiples of 2**-24; infinite from 65520 on.
    """
    constants = {"split": 8193.0, "tiny": 2.0**-14, "fine": 2.0**24, "step": 2.0**-24, "most": 65520.0, "inf": np.inf}
    nodes = [
        helper.make_node("Constant", [], [name], value=numpy_helper.from_array(np.array(value, np.float32), name))
        for name, value in constants.items()
    ]
    steps = [
        ("Mul", ["x", "split"], "scaled"), ("Sub", ["x", "scaled"], "rest"), ("Add", ["rest", "scaled"], "normal"),
        ("Mul", ["x", "fine"], "counted"), ("Round", ["counted"], "whole"), ("Mul", ["whole", "step"], "subnormal"),
        ("Abs", ["x"], "size"), ("Less", ["size", "tiny"], "is_tiny"),
        ("Where", ["is_tiny", "subnormal", "normal"], "finite"), ("Sign", ["x"], "sign"),
        ("Mul", ["sign", "inf"], "endless"), ("Less", ["size", "most"], "is_finite"),
        ("Where", ["is_finite", "finite", "endless"], "y"),
    ]  # fmt: skip
    nodes += [helper.make_node(op, inputs, [output]) for op, inputs, output in steps]
    opset = [entry for entry in model.opset_import if entry.domain == ""]
    return helper.make_function("zoonnx", "Round16", ["x"], ["y"], nodes, opset)
