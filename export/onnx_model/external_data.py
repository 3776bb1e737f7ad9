"""Handles models whose weights exceed 2 GB, the limit of one protobuf message.

Requires: a model in memory.
Ensures: the weights of a large model are never serialised together with its graph. They are stored in a separate file,
each at the start of a page, in the order of the graph, so that equal models have equal bytes. A small model has one
file.
"""

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from math import prod
from pathlib import Path

import onnx
from google.protobuf.message import Message
from onnx import TensorProto, helper, numpy_helper
from onnx.external_data_helper import set_external_data

from export.arrays import Array
from export.names import WEIGHTS
from protos.files import MODEL

EXTERNAL_FROM_BYTES = 1_900_000_000  # of weights; the rest of 2 GB is for the graph and its metadata
INLINE_MAX_BYTES = 1024  # a smaller weight may be a shape, which shape inference must read
PAGE_BYTES = 4096
NUMPY_BUILTIN = 1  # numpy.dtype.isbuiltin of NumPy's own types


def is_large(model: onnx.ModelProto) -> bool:
    """Return whether the weights in `model` are too large to be stored in one file with its graph."""
    weights = (weight for weight in model.graph.initializer if weight.data_location != TensorProto.EXTERNAL)
    return sum(map(_byte_count, weights)) >= EXTERNAL_FROM_BYTES


def with_external_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy of a large `model` in which each large weight refers to its place in the file WEIGHTS."""
    copy, locations = _without_weights(model), _locations(model)
    for weight in model.graph.initializer:
        if weight.name in locations:
            _add_external(copy.graph, weight, *locations[weight.name])
        else:
            copy.graph.initializer.append(weight)
    return copy


def weightless(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy of `model` for shape inference, in which each large weight is an input of its type and shape."""
    copy = _without_weights(model)
    for weight in model.graph.initializer:
        if _can_be_external(weight):
            copy.graph.input.append(helper.make_tensor_value_info(weight.name, weight.data_type, weight.dims))
        else:
            copy.graph.initializer.append(weight)
    return copy


def split_weights(model: onnx.ModelProto) -> tuple[onnx.ModelProto, Mapping[str, Array]]:
    """Return a copy of `model` that marks its large weights as external, and these weights by name."""
    copy, weights = _without_weights(model), {}
    used = {name for node in model.graph.node for name in node.input}  # not those of loops and branches
    for weight in model.graph.initializer:
        if weight.name in used and _can_be_external(weight) and _is_numpy_type(weight):
            _add_external(copy.graph, weight, 0, _byte_count(weight))
            weights[weight.name] = numpy_helper.to_array(weight)
        else:
            copy.graph.initializer.append(weight)
    return copy, weights


def model_files(model: onnx.ModelProto) -> dict[str, bytes]:
    """Return the files of `model` on disk by name."""
    if not is_large(model):
        return {MODEL: model.SerializeToString(deterministic=True)}
    graph = with_external_weights(model).SerializeToString(deterministic=True)
    return {MODEL: graph, WEIGHTS: b"".join(_weight_chunks(model))}


def check(model: onnx.ModelProto) -> None:
    """Run the ONNX checker, which accepts a large model only as files.

    Raises: onnx.checker.ValidationError, onnx.shape_inference.InferenceError.
    """
    if not is_large(model):
        onnx.checker.check_model(model, full_check=True)
        return
    with on_disk(model) as path:
        onnx.checker.check_model(path, full_check=True)


@contextmanager
def on_disk(model: onnx.ModelProto) -> Iterator[Path]:
    """Write a large model to a temporary folder and yield its path; a memory map of a file outlives the folder."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        path = Path(folder) / MODEL
        path.write_bytes(with_external_weights(model).SerializeToString())
        with (path.parent / WEIGHTS).open("wb") as file:
            file.writelines(_weight_chunks(model))
        yield path


def _byte_count(weight: onnx.TensorProto) -> int:
    return prod(weight.dims) * helper.tensor_dtype_to_np_dtype(weight.data_type).itemsize


def _external_weights(model: onnx.ModelProto) -> list[onnx.TensorProto]:
    """Return the weights that are stored in the separate file; none for a small model."""
    if not is_large(model):
        return []
    return [weight for weight in model.graph.initializer if _can_be_external(weight)]


def _is_numpy_type(weight: onnx.TensorProto) -> bool:
    return helper.tensor_dtype_to_np_dtype(weight.data_type).isbuiltin == NUMPY_BUILTIN


def _can_be_external(weight: onnx.TensorProto) -> bool:
    return weight.HasField("raw_data") and _byte_count(weight) > INLINE_MAX_BYTES


def _without_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    _copy_fields(model, copy, {"graph"})
    _copy_fields(model.graph, copy.graph, {"initializer"})
    return copy


def _locations(model: onnx.ModelProto) -> Mapping[str, tuple[int, int]]:
    """Return the offset and the length in bytes of each external weight in the separate file."""
    locations, end = {}, 0
    for weight in _external_weights(model):
        offset = -(-end // PAGE_BYTES) * PAGE_BYTES
        locations[weight.name] = offset, _byte_count(weight)
        end = offset + _byte_count(weight)
    return locations


def _weight_chunks(model: onnx.ModelProto) -> Iterator[bytes]:
    """Yield the content of the file WEIGHTS in order."""
    locations, end = _locations(model), 0
    for weight in _external_weights(model):
        offset, length = locations[weight.name]
        yield bytes(offset - end)
        yield weight.raw_data
        end = offset + length


def _add_external(graph: onnx.GraphProto, weight: onnx.TensorProto, offset: int, length: int) -> None:
    external = graph.initializer.add()
    _copy_fields(weight, external, {"raw_data"})
    external.raw_data = b""  # set_external_data requires the field
    set_external_data(external, WEIGHTS, offset, length)
    external.ClearField("raw_data")


def _copy_fields(source: Message, target: Message, excluded: set[str]) -> None:
    for field, value in source.ListFields():
        if field.name in excluded:
            continue
        if isinstance(value, Message):
            getattr(target, field.name).CopyFrom(value)
        elif isinstance(value, str | bytes | int | float):
            setattr(target, field.name, value)
        else:
            getattr(target, field.name).extend(value)
