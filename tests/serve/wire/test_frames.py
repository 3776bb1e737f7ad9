"""Tests of the writer of responses."""

import numpy as np
import pytest

from protos import inference
from serve.wire import frames
from serve.wire.frames import FrameWriter, id_field, stream_frame


@pytest.mark.parametrize("request_id", ["", "7", "ü" * 100])
@pytest.mark.parametrize("size", [0, 1, 127, 128, 70_000])
def test_a_response_is_what_protobuf_writes(request_id: str, size: int) -> None:
    """The bytes are those of protobuf, for data of any size, in messages and in arrays."""
    writer, array = FrameWriter("model", "3"), np.zeros((1, size), np.uint8)
    outputs = (("a", "UINT8", (1, size)), ("b", "FP32", ()))
    expected = inference.ModelInferResponse(model_name="model", model_version="3", id=request_id)
    for name, datatype, shape in outputs:
        expected.outputs.add(name=name, datatype=datatype, shape=shape)
    expected.raw_output_contents.extend([bytes(size), b"four"])
    for data in (array.data.cast("B") if size else b"", bytes(size)):
        assert writer.write(id_field(request_id), outputs, [data, b"four"]) == expected.SerializeToString()


def test_descriptions_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that varies its shapes does not fill the memory, and still gets its own shape."""
    monkeypatch.setattr(frames, "MAX_DESCRIPTIONS", 4)
    writer = FrameWriter("m", "1")
    for size in (*range(9), 0):
        response = inference.ModelInferResponse.FromString(writer.write(b"", (("y", "UINT8", (size,)),), [b""]))
        assert list(response.outputs[0].shape) == [size]
    assert len(writer._descriptions) <= 4


def test_a_streamed_response() -> None:
    """A response of a stream contains the response, marked as the final one to its request."""
    response = FrameWriter("m", "1").write(id_field("7"), (("y", "UINT8", (200,)),), [bytes(200)])
    message = inference.ModelStreamInferResponse.FromString(stream_frame(response))
    assert message.infer_response.parameters["triton_final_response"].bool_param
    del message.infer_response.parameters["triton_final_response"]
    assert message.infer_response.SerializeToString() == response
