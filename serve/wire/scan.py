"""Finds the parts of a serialised ModelInferRequest without parsing it, so that its tensors need not be copied.

A client sends the same header (everything but the request's id and the raw tensors) again and again, so a server can
parse and validate it once and recognise it by its bytes. A message that is unusual in any way is left to protobuf.
"""

from collections.abc import Iterator
from typing import NamedTuple

MAX_HEADER_BYTES = 4096
MAX_FIELDS = 256
MAX_LENGTH_BYTES = 5  # of a length, in base 128
LENGTH_DELIMITED = 2
KNOWN_FIELDS = frozenset(range(1, 8))  # of ModelInferRequest; all are length-delimited
ID, RAW_INPUT = 3, 7
TAGS = {number << 3 | LENGTH_DELIMITED: number for number in KNOWN_FIELDS}


class RequestParts(NamedTuple):
    """The parts of a message.

    Attributes:
        header: All other fields, serialised, in their order.
        id: The field with the request's id, serialised; empty without an id.
        raw: Start and end of each element of `raw_input_contents` in the message, in order.
    """

    header: bytes
    id: bytes
    raw: tuple[tuple[int, int], ...]


class _UnusualError(Exception):
    """The message is left to protobuf."""


def split_request(data: bytes) -> RequestParts | None:
    """Return the parts of a serialised ModelInferRequest; None if it is unusual or not one at all.

    Parsing `header + id` gives the message without its raw tensors.
    """
    header: list[bytes] = []
    identifiers: list[bytes] = []
    raw: list[tuple[int, int]] = []
    try:
        for number, field_start, start, end in _fields(data):
            if number == RAW_INPUT:
                raw.append((start, end))
            elif number == ID:
                data[start:end].decode()
                identifiers.append(data[field_start:end])
            else:
                header.append(data[field_start:end])
    except (_UnusualError, UnicodeDecodeError):
        return None
    joined = b"".join(header)
    if len(identifiers) > 1 or len(joined) > MAX_HEADER_BYTES:
        return None
    return RequestParts(joined, identifiers[0] if identifiers else b"", tuple(raw))


def _fields(data: bytes) -> Iterator[tuple[int, int, int, int]]:
    """Yield each field's number, its start, and the start and end of its content. Raises: _UnusualError."""
    position, size = 0, len(data)
    for _ in range(MAX_FIELDS):
        if position == size:
            return
        number = TAGS.get(data[position])
        if number is None or position + 1 == size:
            raise _UnusualError
        start, length = position + 2, data[position + 1]
        if length >= 128:
            length, start = _varint(data, position + 1)
        if start + length > size:
            raise _UnusualError
        yield number, position, start, start + length
        position = start + length
    raise _UnusualError


def _varint(data: bytes, position: int) -> tuple[int, int]:
    """Return a number of up to five bytes, and the position after it. Raises: _UnusualError."""
    value = 0
    for count, byte in enumerate(data[position : position + MAX_LENGTH_BYTES]):
        value |= (byte & 127) << 7 * count
        if byte < 128:
            return value, position + count + 1
    raise _UnusualError
