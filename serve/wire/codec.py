"""Between protobuf and plain requests. Tensors travel raw (little-endian, row-major) or as typed lists."""

import math
import struct
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np

from protos import inference
from serve.errors import InvalidRequestError
from serve.shared_memory.regions import Place, Regions
from serve.wire import datatypes
from serve.wire.datatypes import Datatype
from serve.wire.tensors import Array, Request, Response, Tensor

LENGTH = struct.Struct("<I")
PIECE = 2**14  # typed elements converted in one go, about a millisecond, in which no other thread runs
MOST_DIMENSIONS = 64  # numpy's limit; checked before sizes are multiplied, which of many huge ones takes minutes
REGION, REGION_OFFSET, REGION_SIZE = "shared_memory_region", "shared_memory_offset", "shared_memory_byte_size"
CLASSIFICATION = "classification"
CONTENTS = tuple(field.name for field in inference.InferTensorContents.DESCRIPTOR.fields)
Parameters = Mapping[str, inference.InferParameter]
WireTensor = inference.ModelInferRequest.InferInputTensor | inference.ModelInferResponse.InferOutputTensor


def request_from_message(message: inference.ModelInferRequest, regions: Regions) -> Request:
    """Read a request.

    Raises:
        InvalidRequestError: data and description of a tensor do not fit together.
        UnknownRegionError: a tensor is said to be in a shared-memory region that is not registered.
    """
    return Request(
        model=message.model_name,
        version=message.model_version,
        id=message.id,
        inputs=tuple(tensors(message.inputs, _raw(message, regions))),
        outputs=tuple(output.name for output in message.outputs),
        classes={output.name: _count(output.parameters, CLASSIFICATION) for output in message.outputs},
        priority=_count(message.parameters, "priority"),
        timeout_us=_count(message.parameters, "timeout"),
    )


def is_long(message: inference.ModelInferRequest) -> bool:
    """Whether a request has so many typed elements that nobody should wait for their conversion."""
    return any(_typed(each) > PIECE for each in message.inputs if each.HasField("contents"))


def message_from_request(request: Request) -> inference.ModelInferRequest:
    """Write a request, all tensors raw."""
    message = inference.ModelInferRequest(model_name=request.model, model_version=request.version, id=request.id)
    for tensor in request.inputs:
        message.inputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.array.shape)
        message.raw_input_contents.append(to_raw(tensor))
    for name in request.outputs:
        message.outputs.add(name=name)
    return message


def places(message: inference.ModelInferRequest, regions: Regions) -> dict[str, Place]:
    """Where outputs are to go that are wanted in shared memory. Raises: UnknownRegionError, InvalidRequestError."""
    found = {output.name: _place(output.parameters, regions) for output in message.outputs}
    return {name: place for name, place in found.items() if place}


def message_from_response(
    response: Response, places: Mapping[str, Place] = MappingProxyType({})
) -> inference.ModelInferResponse:
    """Write a response, all tensors raw; those with a place in shared memory go there. Raises: OutputTooLargeError."""
    message = inference.ModelInferResponse(model_name=response.model, model_version=response.version, id=response.id)
    for tensor in response.outputs:
        message.outputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.array.shape)
        data = to_raw(tensor)
        if tensor.name in places:
            places[tensor.name].write(data)
            data = b""
        message.raw_output_contents.append(data)
    return message


def tensors(described: Sequence[WireTensor], raw: Sequence[bytes]) -> Iterator[Tensor]:
    """Read the tensors of a message, described in order, with their data in `raw` or beside each description.

    Raises:
        InvalidRequestError: data and description do not fit together.
    """
    if raw and any(each.HasField("contents") for each in described):
        raise InvalidRequestError("tensors must be either all raw or all typed; this message has both.")
    if raw and len(raw) != len(described):
        raise InvalidRequestError(f"{len(described)} tensors are described, but {len(raw)} come with raw data.")
    for index, each in enumerate(described):
        datatype = _datatype(each)
        array = _from_raw(each, datatype, raw[index]) if raw else _from_contents(each, datatype)
        yield Tensor(each.name, datatype.name, array)


def to_raw(tensor: Tensor) -> bytes:
    """Pack an array's elements; BYTES elements each follow their length, 4 bytes."""
    if tensor.datatype == datatypes.BYTES.name:
        return b"".join(LENGTH.pack(len(each)) + each for each in tensor.array.ravel().tolist())
    return np.ascontiguousarray(tensor.array, datatypes.BY_NAME[tensor.datatype].numpy).tobytes()


def _datatype(tensor: WireTensor) -> Datatype:
    if tensor.datatype not in datatypes.BY_NAME:
        known = ", ".join(datatypes.BY_NAME)
        raise InvalidRequestError(f"tensor '{tensor.name}': unknown datatype '{tensor.datatype}'; there are {known}.")
    if len(tensor.shape) > MOST_DIMENSIONS:
        raise InvalidRequestError(f"tensor '{tensor.name}': no array can have {len(tensor.shape)} dimensions.")
    if tensor.shape and min(tensor.shape) < 0:
        raise InvalidRequestError(f"tensor '{tensor.name}': shape {list(tensor.shape)} has a negative size.")
    return datatypes.BY_NAME[tensor.datatype]


def _from_raw(tensor: WireTensor, datatype: Datatype, raw: bytes) -> Array:
    if datatype is datatypes.BYTES:
        return _shaped(tensor, list(_split(tensor.name, raw)), datatype)
    expected = math.prod(tensor.shape) * datatype.numpy.itemsize
    if len(raw) != expected:
        raise InvalidRequestError(
            f"tensor '{tensor.name}': {datatype.name} of shape {list(tensor.shape)} takes {expected} bytes, "
            f"but {len(raw)} came."
        )
    return _reshaped(np.frombuffer(raw, datatype.numpy), tensor)


def _split(name: str, raw: bytes) -> Iterator[bytes]:
    start = 0
    while start < len(raw):
        data = start + LENGTH.size
        end = data + LENGTH.unpack_from(raw, start)[0] if data <= len(raw) else len(raw) + 1
        if end > len(raw):
            raise InvalidRequestError(f"tensor '{name}': its BYTES data ends in the middle of an element.")
        yield raw[data:end]
        start = end


def _from_contents(tensor: WireTensor, datatype: Datatype) -> Array:
    if datatype.contents is None:
        raise InvalidRequestError(f"tensor '{tensor.name}': {datatype.name} can only be sent raw.")
    filled = [name for name in CONTENTS if getattr(tensor.contents, name)]
    if any(name != datatype.contents for name in filled):
        raise InvalidRequestError(
            f"tensor '{tensor.name}': {datatype.name} belongs into {datatype.contents}, not {', '.join(filled)}."
        )
    if not filled and math.prod(tensor.shape) > 0:
        raise InvalidRequestError(f"tensor '{tensor.name}' has no data.")
    return _shaped(tensor, getattr(tensor.contents, datatype.contents), datatype)


def _typed(tensor: WireTensor) -> int:
    return max(len(getattr(tensor.contents, name)) for name in CONTENTS)


def _shaped(tensor: WireTensor, elements: Sequence[Any], datatype: Datatype) -> Array:
    if len(elements) != math.prod(tensor.shape):
        raise InvalidRequestError(
            f"tensor '{tensor.name}': shape {list(tensor.shape)} has {math.prod(tensor.shape)} elements, "
            f"but {len(elements)} came."
        )
    array = np.empty(len(elements), datatype.numpy)
    try:
        for start in range(0, len(elements), PIECE):
            array[start : start + PIECE] = elements[start : start + PIECE]
    except OverflowError:
        raise InvalidRequestError(f"tensor '{tensor.name}': a value does not fit into {datatype.name}.") from None
    return _reshaped(array, tensor)


def _raw(message: inference.ModelInferRequest, regions: Regions) -> Sequence[bytes]:
    """The inputs' raw data; where some are in shared memory, only the others come in the message, in their order."""
    found = [_place(tensor.parameters, regions) for tensor in message.inputs]
    if not any(found):
        return message.raw_input_contents
    sent = list(message.raw_input_contents)
    if len(sent) == len(found):  # sent all the same: shared memory wins
        return [place.read() if place else data for place, data in zip(found, sent, strict=True)]
    if len(sent) != found.count(None):
        raise InvalidRequestError(f"{found.count(None)} tensors should come with raw data, but {len(sent)} do.")
    return [place.read() if place else sent.pop(0) for place in found]


def _place(parameters: Parameters, regions: Regions) -> Place | None:
    """Where in shared memory a tensor stands, if it does."""
    if REGION not in parameters:
        return None
    name = str(_parameter(parameters, REGION, "string_param"))
    return regions.place(name, _count(parameters, REGION_OFFSET), _count(parameters, REGION_SIZE))


def _parameter(parameters: Parameters, name: str, *kinds: str) -> Any:
    """The value of a parameter that must be there as one of `kinds`."""
    kind = parameters[name].WhichOneof("parameter_choice")
    if kind not in kinds:
        raise InvalidRequestError(f"parameter '{name}' must be given as {' or '.join(kinds)}.")
    return getattr(parameters[name], kind)


def _count(parameters: Parameters, name: str) -> int:
    """The value of a parameter that counts something; 0 where it is not given."""
    if name not in parameters:
        return 0
    value = int(_parameter(parameters, name, "int64_param", "uint64_param"))
    if value < 0:
        raise InvalidRequestError(f"parameter '{name}' must be 0 or more; got {value}.")
    return value


def _reshaped(array: Array, tensor: WireTensor) -> Array:
    try:
        return array.reshape(tensor.shape)
    except ValueError:
        raise InvalidRequestError(f"tensor '{tensor.name}': no array can have shape {list(tensor.shape)}.") from None
