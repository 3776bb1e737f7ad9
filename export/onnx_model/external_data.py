"""Models whose weights are too many for one protobuf message, which ends at 2 GB.

Requires: a model in memory. How many weights it holds is told by their shapes: nothing is serialised to know.
Ensures: the weights of a large model are never serialised with its graph. They stand in a file of their own beside it,
each at a whole page, in the order of the graph, so that the same model gives the same bytes. A small one is one file.
"""

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import Any

import numpy.typing as npt
import onnx
from google.protobuf.message import Message
from onnx import TensorProto, helper, numpy_helper
from onnx.external_data_helper import set_external_data

from export.names import MODEL, WEIGHTS

EXTERNAL_FROM_BYTES = 1_900_000_000  # of weights: the graph and its notes need room, too
INSIDE_BELOW_BYTES = 1024  # a weight this small may be a shape, which inference must read
PAGE_BYTES = 4096
NUMPYS_OWN = 1  # numpy's mark of the dtypes that it has itself

Array = npt.NDArray[Any]


def is_large(model: onnx.ModelProto) -> bool:
    """Whether `model` holds more weights than go into one file with it."""
    inside = (weight for weight in model.graph.initializer if weight.data_location != TensorProto.EXTERNAL)
    return sum(map(_bytes, inside)) >= EXTERNAL_FROM_BYTES


def light(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy of a large `model` without its large weights: their places in WEIGHTS stand instead."""
    copy, places = _without_weights(model), _places(model)
    for weight in model.graph.initializer:
        if weight.name in places:
            _add_outside(copy.graph, weight, places[weight.name])
        else:
            copy.graph.initializer.append(weight)
    return copy


def weightless(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy of `model` to infer shapes from: a weight that is no shape is an input of its type and sizes."""
    copy = _without_weights(model)
    for weight in model.graph.initializer:
        if _may_be_outside(weight):
            copy.graph.input.append(helper.make_tensor_value_info(weight.name, weight.data_type, weight.dims))
        else:
            copy.graph.initializer.append(weight)
    return copy


def apart(model: onnx.ModelProto) -> tuple[onnx.ModelProto, Mapping[str, Array]]:
    """Return a copy of `model` and, by name, those of its weights that the copy only says to be outside."""
    copy, weights = _without_weights(model), {}
    taken = {name for node in model.graph.node for name in node.input}  # onnxruntime misses those of loops and branches
    for weight in model.graph.initializer:
        if weight.name in taken and _may_be_outside(weight) and _is_numpys(weight):
            _add_outside(copy.graph, weight, (0, _bytes(weight)))
            weights[weight.name] = numpy_helper.to_array(weight)
        else:
            copy.graph.initializer.append(weight)
    return copy, weights


def contents(model: onnx.ModelProto) -> dict[str, bytes]:
    """Return the files that `model` consists of on disk, by name."""
    if not is_large(model):
        return {MODEL: model.SerializeToString(deterministic=True)}
    return {MODEL: light(model).SerializeToString(deterministic=True), WEIGHTS: b"".join(_chunks(model))}


def check(model: onnx.ModelProto) -> None:
    """Ask ONNX's own checker, which takes a large model only as files.

    Raises: onnx.checker.ValidationError, onnx.shape_inference.InferenceError.
    """
    if not is_large(model):
        onnx.checker.check_model(model, full_check=True)
        return
    with on_disk(model) as path:
        onnx.checker.check_model(path, full_check=True)


@contextmanager
def on_disk(model: onnx.ModelProto) -> Iterator[Path]:
    """The path of a large model, written for the length of the block; what is mapped by then stays mapped."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        path = Path(folder) / MODEL
        path.write_bytes(light(model).SerializeToString())
        with (path.parent / WEIGHTS).open("wb") as file:
            file.writelines(_chunks(model))
        yield path


def _bytes(weight: onnx.TensorProto) -> int:
    return prod(weight.dims) * helper.tensor_dtype_to_np_dtype(weight.data_type).itemsize


def _outside(model: onnx.ModelProto) -> list[onnx.TensorProto]:
    if not is_large(model):
        return []
    return [each for each in model.graph.initializer if _may_be_outside(each)]


def _is_numpys(weight: onnx.TensorProto) -> bool:
    return helper.tensor_dtype_to_np_dtype(weight.data_type).isbuiltin == NUMPYS_OWN


def _may_be_outside(weight: onnx.TensorProto) -> bool:
    return weight.HasField("raw_data") and _bytes(weight) > INSIDE_BELOW_BYTES


def _without_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    _copy_fields(model, copy, {"graph"})
    _copy_fields(model.graph, copy.graph, {"initializer"})
    return copy


def _places(model: onnx.ModelProto) -> Mapping[str, tuple[int, int]]:
    """The offset and the length of each outside weight."""
    places, end = {}, 0
    for weight in _outside(model):
        offset = -(-end // PAGE_BYTES) * PAGE_BYTES
        places[weight.name] = offset, _bytes(weight)
        end = offset + _bytes(weight)
    return places


def _chunks(model: onnx.ModelProto) -> Iterator[bytes]:
    """The content of WEIGHTS, in order."""
    places, end = _places(model), 0
    for weight in _outside(model):
        offset, length = places[weight.name]
        yield bytes(offset - end)
        yield weight.raw_data
        end = offset + length


def _add_outside(graph: onnx.GraphProto, weight: onnx.TensorProto, place: tuple[int, int]) -> None:
    added = graph.initializer.add()
    _copy_fields(weight, added, {"raw_data"})
    added.raw_data = b""
    set_external_data(added, WEIGHTS, *place)
    added.ClearField("raw_data")


def _copy_fields(source: Message, target: Message, left_out: set[str]) -> None:
    for field, value in source.ListFields():
        if field.name in left_out:
            continue
        if isinstance(value, Message):
            getattr(target, field.name).CopyFrom(value)
        elif isinstance(value, str | bytes | int | float):
            setattr(target, field.name, value)
        else:
            getattr(target, field.name).extend(value)
