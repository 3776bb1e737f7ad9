"""Tests of the conversion between messages and arrays, for every datatype."""

from typing import Any

import numpy as np
import pytest
import tritonclient.utils

from protos import inference
from serve.errors import InvalidRequestError
from serve.shared_memory.regions import Regions
from serve.wire import codec, datatypes
from serve.wire.datatypes import Datatype
from serve.wire.tensors import Array, Request, Tensor

DATATYPES = [pytest.param(datatype, id=name) for name, datatype in datatypes.BY_NAME.items()]


def example(datatype: Datatype) -> Array:
    """Return two rows of values, including the datatype's extremes."""
    if datatype is datatypes.BYTES:
        return np.array([[b"", b"a\0b"], ["é".encode(), b"x" * 300]], object)
    if datatype.numpy.kind == "f":
        info: Any = np.finfo(datatype.numpy)
        return np.array([[info.min, -0.5], [0, info.max]], datatype.numpy)
    if datatype is datatypes.BF16:
        return np.array([[0xFF7F, 0x3F80], [0, 0x7F80]], np.uint16).view(datatype.numpy)
    if datatype.numpy.kind == "b":
        return np.array([[True, False], [False, True]])
    info = np.iinfo(datatype.numpy)
    return np.array([[info.min, 1], [2, info.max]], datatype.numpy)


@pytest.mark.parametrize("datatype", DATATYPES)
def test_raw_round_trip(datatype: Datatype) -> None:
    """An array is unchanged after a round trip through a message, extremes included."""
    array = example(datatype)
    message = codec.message_from_request(Request("m", "3", "id", (Tensor("x", datatype.name, array),), ("y",)))
    read = codec.request_from_message(inference.ModelInferRequest.FromString(message.SerializeToString()), Regions())
    assert (read.model, read.version, read.id, read.outputs) == ("m", "3", "id", ("y",))
    assert (read.inputs[0].name, read.inputs[0].datatype) == ("x", datatype.name)
    assert read.inputs[0].array.dtype == datatype.numpy
    assert read.inputs[0].array.tolist() == array.tolist()


@pytest.mark.parametrize("datatype", [param for param in DATATYPES if param.values[0].contents])
def test_typed_lists(datatype: Datatype) -> None:
    """A typed list is read as the same array as raw bytes."""
    array = example(datatype)
    contents = inference.InferTensorContents(**{str(datatype.contents): array.ravel().tolist()})  # type: ignore[arg-type]
    header = inference.ModelInferRequest.InferInputTensor(
        name="x", datatype=datatype.name, shape=array.shape, contents=contents
    )
    (tensor,) = codec.tensors([header], [])
    assert tensor.array.dtype == datatype.numpy
    assert tensor.array.tolist() == array.tolist()


@pytest.mark.parametrize("extra", [-1, 0, 1])
def test_long_lists_are_converted_in_chunks(extra: int) -> None:
    """All elements are in order, and one that is too large is an error in any chunk."""
    count = 3 * codec.CHUNK_ELEMENTS + extra
    message = inference.ModelInferRequest()
    header = message.inputs.add(name="x", datatype="INT16", shape=[count])
    header.contents.int_contents.extend(value % 30000 for value in range(count))
    (tensor,) = codec.tensors(message.inputs, [])
    assert np.array_equal(tensor.array, np.arange(count) % 30000)
    header.contents.int_contents[count - 1] = 2**15
    with pytest.raises(InvalidRequestError, match="a value does not fit into INT16"):
        list(codec.tensors(message.inputs, []))


@pytest.mark.parametrize("datatype", [param for param in DATATYPES if param.values[0] is not datatypes.BF16])
def test_names_equal_tritonclients(datatype: Datatype) -> None:
    """Our table and tritonclient's agree on the names."""
    kind = bool if datatype.name == "BOOL" else datatype.numpy.type  # tritonclient does not support np.bool
    assert tritonclient.utils.np_to_triton_dtype(kind) == datatype.name


def test_bytes_are_packed_like_tritonclients() -> None:
    """A BYTES tensor's raw data equals tritonclient's, byte for byte."""
    array = example(datatypes.BYTES)
    assert codec.to_raw(Tensor("x", "BYTES", array)) == tritonclient.utils.serialize_byte_tensor(array).item()


def test_strided_and_big_endian_arrays_are_packed() -> None:
    """Raw data is little-endian and row-major for any array."""
    array = np.arange(6, dtype=">i4").reshape(2, 3).T
    assert codec.to_raw(Tensor("x", "INT32", array)) == np.array([0, 3, 1, 4, 2, 5], "<i4").tobytes()


def test_every_datatype_is_in_the_table() -> None:
    """The table has each value of the DataType enum except the invalid one."""
    assert set(datatypes.BY_CONFIG) == set(inference.DataType.values()) - {inference.TYPE_INVALID}
