"""Builds the int8 variant by static quantisation: weights per channel, activations by ranges on calibration images.

Requires: an exported model and calibration images.
Ensures: convolutions and matrix products with weights, and the operators between them, compute in int8; the
normalisation of images, the probabilities and the outputs stay float32; the value of a layer keeps its name and
meaning. The bytes are the same in every run.
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
from export.variants.graph import bare_copy, drop_unused_weights, replace_nodes, sort_nodes
from export.variants.input_constants import spread_constants

Method = Literal["minmax", "entropy", "percentile"]
METHODS: tuple[Method, ...] = get_args(Method)
WEIGHTED_OPS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
CONNECTING_OPS = ("Relu", "Clip", "Add", "MaxPool", "AveragePool", "GlobalAveragePool", "Concat")
REMOVED_OPS = ("Relu", "Clip")  # the quantiser removes them, because quantising to a range also clips

_CALIBRATION: Mapping[Method, Any] = {
    "minmax": CalibrationMethod.MinMax,
    "entropy": CalibrationMethod.Entropy,
    "percentile": CalibrationMethod.Percentile,
}
Range = tuple[float, float]
Feeds = Mapping[str, Any]


def calibrate(
    model: onnx.ModelProto, batches: Sequence[Feeds], method: Method, limits: Mapping[str, Range] | None = None
) -> dict[str, Range]:
    """Return the range of every value to quantise, clipped to `limits`, the ranges by the method `minmax`."""
    ranges = _ranges(model, batches, method)
    if limits is None:
        return ranges
    return {
        name: (max(low, limits[name][0]), min(high, limits[name][1])) if name in limits else (low, high)
        for name, (low, high) in ranges.items()
    }


def quantise(model: onnx.ModelProto, ranges: Mapping[str, Range]) -> onnx.ModelProto:
    """Return `model` in int8. Raises: VariantError if it has nothing to quantise, or if the quantiser fails."""
    excluded = _excluded_nodes(model)
    if not any(node.op_type in WEIGHTED_OPS and node.name not in excluded for node in model.graph.node):
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
        sorted(excluded),
        [*WEIGHTED_OPS, *CONNECTING_OPS],
        {},
    )
    try:
        with _silence_quantiser():
            quantiser.quantize_model()
    except Exception as error:
        raise VariantError(f"int8: onnxruntime's quantiser fails: {type(error).__name__}: {error}") from error
    quantised: onnx.ModelProto = quantiser.model.model
    _restore_activations(quantised.graph, model.graph)
    _keep_outputs_float(quantised.graph)
    spread_constants(quantised)
    sort_nodes(quantised.graph)
    drop_unused_weights(quantised.graph)
    del quantised.graph.value_info[:]
    onnx.checker.check_model(quantised, full_check=True)
    return quantised


def _excluded_nodes(model: onnx.ModelProto) -> set[str]:
    """Return the names of nodes that stay float32.

    Products of two activations, as in attention, lose too much accuracy. onnxruntime does not support int8 products of
    stacks of matrices, and its quantiser does not support grouped transposed convolutions.
    """
    weight_ndims = {weight.name: len(weight.dims) for weight in model.graph.initializer}
    products = (node for node in model.graph.node if node.op_type in ("MatMul", "Gemm"))
    transposed = (node for node in model.graph.node if node.op_type == "ConvTranspose")
    grouped = {
        node.name
        for node in transposed
        if any(attribute.name == "group" and attribute.i > 1 for attribute in node.attribute)
    }
    return grouped | {node.name for node in products if weight_ndims.get(node.input[1]) != 2}


def _ranges(model: onnx.ModelProto, batches: Sequence[Feeds], method: Method) -> dict[str, Range]:
    with tempfile.TemporaryDirectory() as folder, _silence_quantiser():
        source = Path(folder) / "model.onnx"
        onnx.save(bare_copy(model), source)
        calibrator = create_calibrator(
            source,
            [*WEIGHTED_OPS, *CONNECTING_OPS],
            augmented_model_path=str(Path(folder) / "augmented.onnx"),
            calibrate_method=_CALIBRATION[method],
            extra_options={"symmetric": False},
        )
        for batch in batches:
            calibrator.collect_data(_SingleBatch(batch))
        tensors = calibrator.compute_data()
    return {name: (_scalar(data.range_value[0]), _scalar(data.range_value[1])) for name, data in tensors.items()}


class _SingleBatch(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime is untyped
    """One batch for the calibrator, which reduces its values to statistics before the next batch."""

    def __init__(self, feeds: Feeds) -> None:
        self._batches = [dict(feeds)]

    def get_next(self) -> Feeds | None:
        return self._batches.pop() if self._batches else None


def _scalar(value: Any) -> float:
    return float(np.asarray(value).reshape(()))


def _restore_activations(graph: onnx.GraphProto, original: onnx.GraphProto) -> None:
    """Add the activations that the quantiser removed.

    The quantiser gives the name of an activation to the value before it, so that a client that requests one of the two
    layers would get the other. Restoring costs no speed: onnxruntime fuses the activation with the rounding.
    """
    existing = {node.name for node in graph.node}
    producer = {name: node for node in graph.node for name in node.output}
    weights = {weight.name for weight in graph.initializer}
    for node in original.node:
        if node.op_type not in REMOVED_OPS or node.name in existing:
            continue
        before = producer[node.output[0]]
        before.output[list(before.output).index(node.output[0])] = node.input[0]
        graph.node.append(copy.deepcopy(node))
        producer[node.input[0]], producer[node.output[0]] = before, graph.node[-1]
        missing = {*node.input} - weights
        graph.initializer.extend(weight for weight in original.initializer if weight.name in missing)
        weights |= {*node.input}


def _keep_outputs_float(graph: onnx.GraphProto) -> None:
    """Remove the quantisation of the model's outputs."""
    producer = {name: node for node in graph.node for name in node.output}
    removed: list[str] = []
    for output in graph.output:
        dequantise = producer[output.name]
        if dequantise.op_type != "DequantizeLinear":
            continue
        quantise_node = producer[dequantise.input[0]]
        unquantised = quantise_node.input[0]
        source = producer[unquantised]
        source.output[list(source.output).index(unquantised)] = output.name
        removed += [dequantise.name, quantise_node.name]
        for node in graph.node:
            node.input[:] = [output.name if name == unquantised else name for name in node.input]
    replace_nodes(graph, [node for node in graph.node if node.name not in removed])


@contextlib.contextmanager
def _silence_quantiser() -> Iterator[None]:
    """Suppress the quantiser's output."""
    with contextlib.redirect_stdout(io.StringIO()):
        yield
