"""Converts between protobuf messages and plain requests and responses.

Messages carry tensors as raw bytes (little-endian, row-major) or as typed lists.
"""

import math
import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from protos import inference
from serve.errors import InvalidRequestError
from serve.shared_memory.regions import Placement, Regions
from serve.wire import datatypes
from serve.wire.datatypes import Datatype
from serve.wire.tensors import Array, Request, Tensor

LENGTH = struct.Struct("<I")
CHUNK_ELEMENTS = 2**14  # typed elements per conversion step, which blocks other threads for about a millisecond
MAX_DIMENSIONS = 64  # numpy's limit; checked first, because multiplying many huge sizes takes minutes
REGION, REGION_OFFSET, REGION_SIZE = "shared_memory_region", "shared_memory_offset", "shared_memory_byte_size"
CLASSIFICATION = "classification"
CONTENTS = tuple(field.name for field in inference.InferTensorContents.DESCRIPTOR.fields)
Parameters = Mapping[str, inference.InferParameter]
WireTensor = inference.ModelInferRequest.InferInputTensor | inference.ModelInferResponse.InferOutputTensor


def request_from_message(message: inference.ModelInferRequest, regions: Regions) -> Request:
    """Read a request from a message.

    Raises:
        InvalidRequestError: A tensor's data does not match its description, or a parameter is invalid.
        UnknownRegionError: A tensor refers to a shared-memory region that is not registered.
    """
    return Request(
        model=message.model_name,
        version=message.model_version,
        id=message.id,
        inputs=tuple(tensors(message.inputs, _raw_inputs(message, regions))),
        outputs=tuple(output.name for output in message.outputs),
        classes={output.name: _count_parameter(output.parameters, CLASSIFICATION) for output in message.outputs},
        priority=_count_parameter(message.parameters, "priority"),
        timeout_us=_count_parameter(message.parameters, "timeout"),
    )


def message_from_request(request: Request) -> inference.ModelInferRequest:
    """Write a request as a message, with all tensors raw."""
    message = inference.ModelInferRequest(model_name=request.model, model_version=request.version, id=request.id)
    for tensor in request.inputs:
        message.inputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.array.shape)
        message.raw_input_contents.append(to_raw(tensor))
    for name in request.outputs:
        message.outputs.add(name=name)
    return message


def output_placements(message: inference.ModelInferRequest, regions: Regions) -> dict[str, Placement]:
    """Return the placements in shared memory that the client requests, by output name.

    Raises:
        UnknownRegionError: A region is not registered.
        InvalidRequestError: A parameter is invalid, or a placement is outside its region.
    """
    placements = {output.name: _placement(output.parameters, regions) for output in message.outputs}
    return {name: placement for name, placement in placements.items() if placement}


def tensors(headers: Sequence[WireTensor], raw: Sequence[bytes]) -> Iterator[Tensor]:
    """Yield the tensors of a message in order; their data is in `raw`, or else in each header's typed contents.

    Raises:
        InvalidRequestError: A tensor's data does not match its description.
    """
    if raw and any(header.HasField("contents") for header in headers):
        raise InvalidRequestError("tensors must be either all raw or all typed; this message has both.")
    if raw and len(raw) != len(headers):
        raise InvalidRequestError(f"the message describes {len(headers)} tensors; it has raw data for {len(raw)}.")
    for index, header in enumerate(headers):
        datatype = _datatype(header)
        array = _from_raw(header, datatype, raw[index]) if raw else _from_contents(header, datatype)
        yield Tensor(header.name, datatype.name, array)


def to_raw(tensor: Tensor) -> bytes:
    """Return an array's elements as raw bytes; each BYTES element is preceded by its length in 4 bytes."""
    if tensor.datatype == datatypes.BYTES.name:
        return b"".join(LENGTH.pack(len(element)) + element for element in tensor.array.ravel().tolist())
    return np.ascontiguousarray(tensor.array, datatypes.BY_NAME[tensor.datatype].numpy).tobytes()


def _datatype(header: WireTensor) -> Datatype:
    """Return the tensor's datatype, after validating datatype and shape."""
    if header.datatype not in datatypes.BY_NAME:
        supported = ", ".join(datatypes.BY_NAME)
        raise InvalidRequestError(
            f"tensor '{header.name}': unknown datatype '{header.datatype}'; the protocol has {supported}."
        )
    if len(header.shape) > MAX_DIMENSIONS:
        raise InvalidRequestError(f"tensor '{header.name}': no array can have {len(header.shape)} dimensions.")
    if header.shape and min(header.shape) < 0:
        raise InvalidRequestError(f"tensor '{header.name}': shape {list(header.shape)} has a negative size.")
    return datatypes.BY_NAME[header.datatype]


def _from_raw(header: WireTensor, datatype: Datatype, raw: bytes) -> Array:
    if datatype is datatypes.BYTES:
        return _from_elements(header, list(_split_elements(header.name, raw)), datatype)
    expected = math.prod(header.shape) * datatype.numpy.itemsize
    if len(raw) != expected:
        raise InvalidRequestError(
            f"tensor '{header.name}': {datatype.name} of shape {list(header.shape)} needs {expected} bytes; "
            f"got {len(raw)}."
        )
    return _reshape(np.frombuffer(raw, datatype.numpy), header)


def _split_elements(name: str, raw: bytes) -> Iterator[bytes]:
    """Yield the elements of a BYTES tensor's raw data."""
    start = 0
    while start < len(raw):
        data = start + LENGTH.size
        end = data + LENGTH.unpack_from(raw, start)[0] if data <= len(raw) else len(raw) + 1
        if end > len(raw):
            raise InvalidRequestError(f"tensor '{name}': its BYTES data ends in the middle of an element.")
        yield raw[data:end]
        start = end


def _from_contents(header: WireTensor, datatype: Datatype) -> Array:
    if datatype.contents is None:
        raise InvalidRequestError(f"tensor '{header.name}': {datatype.name} can only be sent raw.")
    used_lists = [name for name in CONTENTS if getattr(header.contents, name)]
    if any(name != datatype.contents for name in used_lists):
        raise InvalidRequestError(
            f"tensor '{header.name}': {datatype.name} must be sent in {datatype.contents}, not {', '.join(used_lists)}."
        )
    if not used_lists and math.prod(header.shape) > 0:
        raise InvalidRequestError(f"tensor '{header.name}' has no data.")
    return _from_elements(header, getattr(header.contents, datatype.contents), datatype)


def _from_elements(header: WireTensor, elements: Sequence[Any], datatype: Datatype) -> Array:
    if len(elements) != math.prod(header.shape):
        raise InvalidRequestError(
            f"tensor '{header.name}': shape {list(header.shape)} has {math.prod(header.shape)} elements; "
            f"got {len(elements)}."
        )
    array = np.empty(len(elements), datatype.numpy)
    try:
        for start in range(0, len(elements), CHUNK_ELEMENTS):
            array[start : start + CHUNK_ELEMENTS] = elements[start : start + CHUNK_ELEMENTS]
    except OverflowError:
        raise InvalidRequestError(f"tensor '{header.name}': a value does not fit into {datatype.name}.") from None
    return _reshape(array, header)


def _raw_inputs(message: inference.ModelInferRequest, regions: Regions) -> Sequence[bytes]:
    """Return the inputs' raw data, from shared memory or from the message, which has that of the others in order."""
    placements = [_placement(tensor.parameters, regions) for tensor in message.inputs]
    if not any(placements):
        return message.raw_input_contents
    raw_data = list(message.raw_input_contents)
    if len(raw_data) == len(placements):  # also sent in the message: shared memory takes precedence
        return [placement.read() if placement else data for placement, data in zip(placements, raw_data, strict=True)]
    if len(raw_data) != placements.count(None):
        raise InvalidRequestError(
            f"{placements.count(None)} tensors are not in shared memory; the message has raw data for {len(raw_data)}."
        )
    return [placement.read() if placement else raw_data.pop(0) for placement in placements]


def _placement(parameters: Parameters, regions: Regions) -> Placement | None:
    """Return a tensor's placement in shared memory; None if its data is in the message."""
    if REGION not in parameters:
        return None
    name = str(_parameter(parameters, REGION, "string_param"))
    offset, size = _count_parameter(parameters, REGION_OFFSET), _count_parameter(parameters, REGION_SIZE)
    return regions.placement(name, offset, size)


def _parameter(parameters: Parameters, name: str, *types: str) -> Any:
    """Return the value of an existing parameter, which must have one of `types`."""
    choice = parameters[name].WhichOneof("parameter_choice")
    if choice not in types:
        raise InvalidRequestError(f"parameter '{name}' must be of type {' or '.join(types)}.")
    return getattr(parameters[name], choice)


def _count_parameter(parameters: Parameters, name: str) -> int:
    """Return the value of an integer parameter, 0 or more; 0 if it is absent."""
    if name not in parameters:
        return 0
    value = int(_parameter(parameters, name, "int64_param", "uint64_param"))
    if value < 0:
        raise InvalidRequestError(f"parameter '{name}' must be 0 or more; got {value}.")
    return value


def _reshape(array: Array, header: WireTensor) -> Array:
    try:
        return array.reshape(header.shape)
    except ValueError:
        raise InvalidRequestError(f"tensor '{header.name}': no array can have shape {list(header.shape)}.") from None
