"""Tests of the scanner of requests: it agrees with protobuf, or declines."""

import random

import pytest
from google.protobuf.message import DecodeError

from protos import inference
from serve.wire.scan import MAX_FIELDS, MAX_HEADER_BYTES, split_request

Message = inference.ModelInferRequest


def request(*raw: bytes, **fields: str) -> bytes:
    message = Message(model_name="m", **fields)
    for index, data in enumerate(raw):
        message.inputs.add(name=f"x{index}", datatype="UINT8", shape=[1, len(data)])
        message.raw_input_contents.append(data)
    message.outputs.add(name="y")
    message.parameters["priority"].int64_param = 3
    return message.SerializeToString()


def agrees(data: bytes) -> bool:
    """Return whether the scanner accepts a message; fail if it then differs from protobuf."""
    parts = split_request(data)
    if parts is None:
        return False
    try:
        expected = Message.FromString(data)
    except DecodeError:
        with pytest.raises(DecodeError):  # so no plan can have this header
            Message.FromString(parts.header + parts.id)
        return False
    actual = Message.FromString(parts.header + parts.id)
    assert [data[start:end] for start, end in parts.raw] == list(expected.raw_input_contents)
    del expected.raw_input_contents[:]
    assert actual == expected
    return True


@pytest.mark.parametrize("size", [0, 1, 127, 128, 16_383, 16_384, 3_000_000])
def test_usual_messages_are_split(size: int) -> None:
    """Messages of all sizes are accepted, with and without an id."""
    assert agrees(request(bytes(size), b"ab"))
    assert agrees(request(bytes(size), id="ünique", model_version="2"))


@pytest.mark.parametrize(
    "data",
    [
        request(b"a", id="7") + b"\x1a\x018",
        request(b"a") + b"\x1a\x01\xff",
        request(b"a") + b"\x08\x01",
        request(b"a") + b"\x42\x01a",
        request(b"a") + b"\x8a\x00\x00",
        request(b"a") + b"\x3a\x85\x00",
        request(b"a") + b"\x3a\x81\x80\x80\x80\x80\x00a",
        request(b"a") + b"\x3a",
        request(b"a") + b"\x3a\xff\xff\xff\xff\x7f",
        request(*[b"a"] * MAX_FIELDS),
        request(b"a", model_version="1" * MAX_HEADER_BYTES),
    ],
    ids=["two ids", "not text", "varint", "unknown", "long tag", "short", "long length", "cut", "huge", "many", "big"],
)
def test_unusual_messages_are_declined(data: bytes) -> None:
    """Whatever the scanner does not understand is left to protobuf."""
    assert split_request(data) is None


def test_no_data() -> None:
    """An empty message has no parts."""
    assert split_request(b"") == (b"", b"", ())


def mutate(data: bytes, draw: random.Random) -> bytes:
    """Return a message with a few bytes changed, removed, inserted or repeated."""
    mutated = bytearray(data)
    for _ in range(draw.randint(1, 3)):
        position = draw.randrange(len(mutated) + 1)
        kind = draw.randrange(4)
        if kind == 0 and position < len(mutated):
            mutated[position] = draw.choice((0, 1, 2, 10, 26, 42, 58, 127, 128, 255, draw.randrange(256)))
        elif kind == 1:
            del mutated[position : position + draw.randint(1, 4)]
        elif kind == 2:
            mutated[position:position] = draw.randbytes(draw.randint(1, 4))
        else:
            start = draw.randrange(len(mutated) + 1)
            mutated[position:position] = mutated[start : start + draw.randint(1, 30)]
    return bytes(mutated)


def test_mutated_messages() -> None:
    """Over 100,000 mutated messages the scanner agrees with protobuf or declines, and both happen often."""
    draw = random.Random(0)
    bases = [request(b"abc", id="7"), request(bytes(200), b""), request(), request(b"x", model_version="1")]
    accepted = 0
    for _ in range(100_000):
        accepted += agrees(mutate(draw.choice(bases), draw))
    assert 5_000 < accepted < 95_000
