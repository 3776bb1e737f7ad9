"""Writes responses: the serialised description of the outputs, which repeats, followed by their raw data."""

from collections.abc import Sequence

from protos import inference

MAX_DESCRIPTIONS = 1024
TAG_ID, TAG_RAW_OUTPUT = bytes([3 << 3 | 2]), bytes([6 << 3 | 2])
TAG_INFER_RESPONSE = bytes([2 << 3 | 2])  # of ModelStreamInferResponse
Description = tuple[str, str, tuple[int, ...]]
Buffer = bytes | memoryview
FINAL = inference.ModelInferResponse()
FINAL.parameters["triton_final_response"].bool_param = True
FINAL_PARAMETER = FINAL.SerializeToString()


class FrameWriter:
    """Serialises the responses of one version of a model as ModelInferResponse messages.

    It caches the serialised descriptions, by the outputs' names, datatypes and shapes.
    """

    def __init__(self, model: str, version: str) -> None:
        self._model = inference.ModelInferResponse(model_name=model, model_version=version).SerializeToString()
        self._descriptions: dict[tuple[Description, ...], bytes] = {}

    def write(self, request_id: bytes, outputs: tuple[Description, ...], data: Sequence[Buffer]) -> bytes:
        """Return a response.

        Args:
            request_id: The serialised id field of the request; a response has the same field.
            outputs: Name, datatype and shape of each output.
            data: Raw data of each output; empty if it is elsewhere.
        """
        description = self._descriptions.get(outputs)
        if description is None:
            description = self._describe(outputs)
        pieces: list[Buffer] = [self._model, request_id, description]
        for buffer in data:
            size = buffer.nbytes if isinstance(buffer, memoryview) else len(buffer)
            pieces += (TAG_RAW_OUTPUT, _varint(size), buffer)
        return b"".join(pieces)

    def _describe(self, outputs: tuple[Description, ...]) -> bytes:
        message = inference.ModelInferResponse()
        for name, datatype, shape in outputs:
            message.outputs.add(name=name, datatype=datatype, shape=shape)
        if len(self._descriptions) >= MAX_DESCRIPTIONS:
            self._descriptions.clear()
        return self._descriptions.setdefault(outputs, message.SerializeToString())


def id_field(request_id: str) -> bytes:
    """Return the serialised id field of a request or response."""
    data = request_id.encode()
    return TAG_ID + _varint(len(data)) + data if data else b""


def stream_frame(response: bytes) -> bytes:
    """Return a serialised ModelStreamInferResponse with a response, which is the only one to its request."""
    return b"".join((TAG_INFER_RESPONSE, _varint(len(response) + len(FINAL_PARAMETER)), response, FINAL_PARAMETER))


def _varint(value: int) -> bytes:
    if value < 128:
        return bytes((value,))
    encoded = bytearray()
    while value >= 128:
        encoded.append(value & 127 | 128)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
