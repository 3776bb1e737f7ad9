"""Static int8: weights by channel, activations by ranges that calibration images gave.

Requires: an exported model and calibration images.
Ensures: convolutions and matrix products with weights, and what carries values between them, work on int8; the
images' normalisation, softmax and the outputs stay float32; a layer's value keeps its name and its meaning. The
bytes are the same in every run.
"""

import contextlib
import copy
import io
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantType
from onnxruntime.quantization.calibrate import TensorsData, create_calibrator
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

from export.errors import VariantError
from export.variants.graph import bare_copy, drop_unused_weights, sort_nodes
from export.variants.input_constants import spread_constants

Method = Literal["minmax", "entropy", "percentile"]
METHODS: tuple[Method, ...] = get_args(Method)
WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
CARRIERS = ("Relu", "Clip", "Add", "MaxPool", "AveragePool", "GlobalAveragePool", "Concat")
ABSORBED = ("Relu", "Clip")  # what the quantiser takes out, since the range of an int8 value clips by itself

_CALIBRATION: Mapping[Method, Any] = {
    "minmax": CalibrationMethod.MinMax,
    "entropy": CalibrationMethod.Entropy,
    "percentile": CalibrationMethod.Percentile,
}
Range = tuple[float, float]
Feeds = Mapping[str, Any]


def calibrate(
    model: onnx.ModelProto, batches: Sequence[Feeds], method: Method, seen: Mapping[str, Range] | None = None
) -> dict[str, Range]:
    """Return the range of every value to quantise, not wider than `seen`, which `minmax` gave."""
    found = _ranges(model, batches, method)
    if seen is None:
        return found
    return {
        name: (max(low, seen[name][0]), min(high, seen[name][1])) if name in seen else (low, high)
        for name, (low, high) in found.items()
    }


def quantise(model: onnx.ModelProto, ranges: Mapping[str, Range]) -> onnx.ModelProto:
    """Return `model` in int8. Raises: VariantError where it has nothing to quantise, or cannot be."""
    if not any(node.op_type in WEIGHTED and node.name not in _excluded(model) for node in model.graph.node):
        raise VariantError("int8: the model has no convolution and no matrix product with weights to quantise.")
    pairs = {name: (np.float32(low), np.float32(high)) for name, (low, high) in ranges.items()}
    quantiser = QDQQuantizer(
        bare_copy(model),
        True,  # weights by channel
        False,  # the full range of 8 bits
        QuantType.QInt8,
        QuantType.QUInt8,
        TensorsData(CalibrationMethod.MinMax, pairs),
        [],
        sorted(_excluded(model)),
        [*WEIGHTED, *CARRIERS],
        {},
    )
    try:
        with _quietly():
            quantiser.quantize_model()
    except Exception as error:
        raise VariantError(f"int8: onnxruntime's quantiser fails: {type(error).__name__}: {error}") from error
    quantised: onnx.ModelProto = quantiser.model.model
    _restore_absorbed(quantised.graph, model.graph)
    _keep_outputs_float(quantised.graph)
    spread_constants(quantised)
    sort_nodes(quantised.graph)
    drop_unused_weights(quantised.graph)
    del quantised.graph.value_info[:]
    onnx.checker.check_model(quantised, full_check=True)
    return quantised


def _excluded(model: onnx.ModelProto) -> set[str]:
    """The products that stay float32.

    Those of two activations, as in attention, lose too much; onnxruntime's int8 product takes no stack of matrices, and
    its quantiser no transposed convolution in groups.
    """
    weights = {weight.name: len(weight.dims) for weight in model.graph.initializer}
    products = (node for node in model.graph.node if node.op_type in ("MatMul", "Gemm"))
    transposed = (node for node in model.graph.node if node.op_type == "ConvTranspose")
    grouped = {node.name for node in transposed if any(each.name == "group" and each.i > 1 for each in node.attribute)}
    return grouped | {node.name for node in products if weights.get(node.input[1]) != 2}


def _ranges(model: onnx.ModelProto, batches: Sequence[Feeds], method: Method) -> dict[str, Range]:
    with tempfile.TemporaryDirectory() as folder, _quietly():
        source = Path(folder) / "model.onnx"
        onnx.save(bare_copy(model), source)
        calibrator = create_calibrator(
            source,
            [*WEIGHTED, *CARRIERS],
            augmented_model_path=str(Path(folder) / "augmented.onnx"),
            calibrate_method=_CALIBRATION[method],
            extra_options={"symmetric": False},
        )
        for batch in batches:
            calibrator.collect_data(_Once(batch))
        found = calibrator.compute_data()
    return {name: (_number(data.range_value[0]), _number(data.range_value[1])) for name, data in found.items()}


class _Once(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime is untyped
    """One batch, as the calibrator wants it: its values are then counted and forgotten before the next."""

    def __init__(self, feeds: Feeds) -> None:
        self._left = [dict(feeds)]

    def get_next(self) -> Feeds | None:
        return self._left.pop() if self._left else None


def _number(value: Any) -> float:
    return float(np.asarray(value).reshape(()))


def _restore_absorbed(graph: onnx.GraphProto, source: onnx.GraphProto) -> None:
    """Put back each activation that the quantiser took out.

    It gave the activation's name to the value before it, so a client asking for either layer would get another's
    numbers. onnxruntime fuses the activation with the rounding again, so this costs nothing.
    """
    there = {node.name for node in graph.node}
    made_by = {name: node for node in graph.node for name in node.output}
    weights = {weight.name for weight in graph.initializer}
    for node in source.node:
        if node.op_type not in ABSORBED or node.name in there:
            continue
        before = made_by[node.output[0]]
        before.output[list(before.output).index(node.output[0])] = node.input[0]
        graph.node.append(copy.deepcopy(node))
        made_by[node.input[0]], made_by[node.output[0]] = before, graph.node[-1]
        graph.initializer.extend(each for each in source.initializer if each.name in {*node.input} - weights)
        weights |= {*node.input}


def _keep_outputs_float(graph: onnx.GraphProto) -> None:
    """Take away the rounding of the model's outputs."""
    made_by = {name: node for node in graph.node for name in node.output}
    removed: list[str] = []
    for output in graph.output:
        last = made_by[output.name]
        if last.op_type != "DequantizeLinear":
            continue
        rounding = made_by[last.input[0]]
        raw = rounding.input[0]
        source = made_by[raw]
        source.output[list(source.output).index(raw)] = output.name
        removed += [last.name, rounding.name]
        for node in graph.node:
            node.input[:] = [output.name if name == raw else name for name in node.input]
    kept = [node for node in graph.node if node.name not in removed]
    del graph.node[:]
    graph.node.extend(kept)


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Hold back what the quantiser prints."""
    with contextlib.redirect_stdout(io.StringIO()):
        yield
