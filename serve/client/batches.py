"""Splits a batch into requests within the server's limits, and joins their outputs in order.

A model's configuration has both limits: `max_batch_size`, and the size of a message, as a parameter that zoonnx's
server adds. Other servers report none; their limit is taken to be protobuf's.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from protos import inference
from protos.keys import MAX_MESSAGE_KEY
from serve.client.model_info import PROTOBUF_MAX_BYTES, LayerInfo
from serve.errors import RefusedError, ServerFailedError
from serve.wire import codec, datatypes
from serve.wire.tensors import Array, Request, Tensor

ALWAYS_ACCEPTED_BYTES = 2**19  # data of a request that every server accepts: their limits are 1 MiB or more
VARIABLE_BYTES = 32  # per tensor: the largest encoding of its number of rows and of the length of its data


@dataclass(frozen=True)
class Limits:
    """What one request for a model may contain.

    Attributes:
        max_batch_size: Largest number of rows; 0 if the model has no batch dimension, or if it is unknown.
        max_message_bytes: Largest request in bytes.
        outputs: The outputs that the model declares, which have one row per row of the inputs.
    """

    max_batch_size: int = 0
    max_message_bytes: int = PROTOBUF_MAX_BYTES
    outputs: frozenset[str] = frozenset()


def limits_of(config: inference.ModelConfig) -> Limits:
    """Return the limits in a model's configuration."""
    text = config.parameters[MAX_MESSAGE_KEY].string_value if MAX_MESSAGE_KEY in config.parameters else ""
    limit = int(text) if text.isascii() and text.isdigit() else PROTOBUF_MAX_BYTES
    outputs = frozenset(output.name for output in config.output)
    return Limits(config.max_batch_size, min(limit, PROTOBUF_MAX_BYTES), outputs)


def may_exceed(request: Request) -> bool:
    """Return whether a server's limits must be known before the request is sent: it has several rows, or is large."""
    return (_rows(request) or 0) > 1 or sum(map(_bytes, request.inputs)) > ALWAYS_ACCEPTED_BYTES


def split(request: Request, limits: Limits) -> list[Request]:
    """Return requests within the limits that together have the rows of `request`, in order.

    Raises:
        RefusedError: A row is larger than a message may be, or a request that is has no rows to split.
    """
    if not may_exceed(request):
        return [request]
    rows = _rows(request)
    room = limits.max_message_bytes - _header_bytes(request)
    if not limits.max_batch_size or not rows or rows == 1:
        _require_room(request, sum(map(_bytes, request.inputs)), room, limits)
        return [request]
    return [_part(request, start, stop) for start, stop in _ranges(request, rows, room, limits)]


def require_split_layers(request: Request, limits: Limits, layers: Sequence[LayerInfo]) -> None:
    """Reject a batch that must be split if it requests a layer that is not known to have one row per input row.

    Raises:
        RefusedError: The layer's name, and the number of rows that can be sent at a time.
    """
    for layer in layers:
        if layer.name in request.outputs and layer.name not in limits.outputs and not layer.batch_first:
            raise RefusedError(
                f"the layer '{layer.name}' has no row per row of the input, so a batch of {_rows(request)} rows cannot "
                f"be split: model '{request.model}' accepts {limits.max_batch_size} rows per request, and messages of "
                f"up to {limits.max_message_bytes} bytes; pass fewer rows."
            )


def join(parts: Sequence[Request], responses: Sequence[Mapping[str, Array]]) -> dict[str, Array]:
    """Return the outputs of all parts by name, with the rows in order.

    Raises:
        ServerFailedError: An output does not have one row per row of the input.
    """
    if len(parts) == 1:
        return dict(responses[0])
    for part, response in zip(parts, responses, strict=True):
        for name, array in response.items():
            if array.shape[:1] != (_rows(part),):
                raise ServerFailedError(
                    f"output '{name}' of model '{part.model}' has the shape {list(array.shape)} for {_rows(part)} "
                    "rows, although a model with a max_batch_size has one row per input row: pass at most "
                    f"{_rows(part)} rows, or set max_batch_size to 0 in its config.pbtxt."
                )
    return {name: np.concatenate([response[name] for response in responses]) for name in responses[0]}


def _ranges(request: Request, rows: int, room: int, limits: Limits) -> Iterator[tuple[int, int]]:
    """Yield the first and the last row, exclusive, of each part: as many rows as fit."""
    row_bytes = np.sum([_row_bytes(tensor, rows) for tensor in request.inputs], axis=0)
    ends = np.cumsum(row_bytes)
    start = 0
    while start < rows:
        _require_room(request, int(row_bytes[start]), room, limits, f" for row {start} alone")
        last = int(np.searchsorted(ends, room + ends[start] - row_bytes[start], side="right"))
        stop = min(last, start + limits.max_batch_size)
        yield start, stop
        start = stop


def _require_room(request: Request, size: int, room: int, limits: Limits, where: str = "") -> None:
    if size > room:
        raise RefusedError(
            f"a request for model '{request.model}' needs {size + limits.max_message_bytes - room} bytes{where}, but "
            f"the server accepts messages of up to {limits.max_message_bytes}: start it with a larger "
            "--max-message-mib, or pass the tensors through shared memory."
        )


def _part(request: Request, start: int, stop: int) -> Request:
    inputs = tuple(replace(tensor, array=tensor.array[start:stop]) for tensor in request.inputs)
    return replace(request, inputs=inputs)


def _rows(request: Request) -> int | None:
    """Return the number of rows, the first size that all inputs have in common; None if there is none."""
    sizes = {tensor.array.shape[:1] for tensor in request.inputs}
    return next(iter(sizes))[0] if len(sizes) == 1 and () not in sizes else None


def _header_bytes(request: Request) -> int:
    """Return a bound of the size of a request's message without the data of its tensors."""
    empty = tuple(replace(tensor, array=np.empty(0, tensor.array.dtype)) for tensor in request.inputs)
    message = codec.message_from_request(replace(request, inputs=empty))
    dimensions = sum(tensor.array.ndim for tensor in request.inputs)
    return message.ByteSize() + VARIABLE_BYTES * (len(empty) + dimensions)


def _bytes(tensor: Tensor) -> int:
    """Return the size of a tensor's data in a message."""
    if tensor.datatype != datatypes.BYTES.name:
        return tensor.array.nbytes
    return sum(codec.LENGTH.size + len(element) for element in tensor.array.flat)


def _row_bytes(tensor: Tensor, rows: int) -> npt.NDArray[np.int64]:
    """Return the size of each row's data in a message."""
    per_row = math.prod(tensor.array.shape[1:])
    if tensor.datatype != datatypes.BYTES.name:
        return np.full(rows, tensor.array.itemsize * per_row, np.int64)
    sizes = np.array([codec.LENGTH.size + len(element) for element in tensor.array.flat], np.int64)
    row_sizes: npt.NDArray[np.int64] = sizes.reshape(rows, per_row).sum(axis=1)
    return row_sizes
