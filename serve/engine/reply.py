"""Turns the arrays of a batch into the response of one request."""

from collections.abc import Mapping, Sequence
from typing import Any

from numpy.typing import NDArray

from serve.batching.queue import Arrays
from serve.engine import classification
from serve.engine.call import Call
from serve.shared_memory.regions import Placement
from serve.wire import codec, datatypes
from serve.wire.frames import Buffer, Description, FrameWriter
from serve.wire.tensors import Tensor


class Encoder:
    """Encodes the outputs of requests that ask for the same outputs in the same way.

    Args:
        writer: Writes the model's responses.
        values: The graph value of each requested output and layer, by name, in the response's order.
        classes: Number of top classes, by name of an output to be classified.
        labels: Labels of the classes, by name of the output.
        placements: Where outputs are written in shared memory, by name.
        is_batched: Whether the first dimension of the outputs is the batch.
    """

    def __init__(
        self,
        writer: FrameWriter,
        values: Mapping[str, str],
        *,
        classes: Mapping[str, int],
        labels: Mapping[str, Sequence[str]],
        placements: Mapping[str, Placement],
        is_batched: bool,
    ) -> None:
        self._writer, self._values = writer, tuple(values.items())
        self._classes, self._labels, self._placements = classes, labels, placements
        self._is_batched = is_batched

    @property
    def has_placements(self) -> bool:
        """Whether an output is written to shared memory."""
        return bool(self._placements)

    def encode(self, request_id: bytes, outputs: Arrays) -> bytes:
        """Return a serialised response; `outputs` are by graph value.

        Raises:
            OutputTooLargeError: An output is larger than its placement in shared memory.
            UnknownRegionError: A region was unregistered in the meantime.
        """
        descriptions: list[Description] = []
        data: list[Buffer] = []
        for name, value in self._values:
            array = outputs[value]
            datatype = datatypes.BY_NUMPY[array.dtype].name
            if name in self._classes:
                datatype, array = self._classified(name, datatype, array)
            raw = _raw(name, datatype, array)
            descriptions.append((name, datatype, array.shape))
            data.append(self._placed(name, raw) if name in self._placements else raw)
        return self._writer.write(request_id, tuple(descriptions), data)

    def _classified(self, name: str, datatype: str, array: NDArray[Any]) -> tuple[str, NDArray[Any]]:
        """Return the datatype and array of an output's top classes."""
        tensor, labels = Tensor(name, datatype, array), self._labels.get(name, ())
        classified = classification.classify(tensor, self._classes[name], labels, batched=self._is_batched)
        return classified.datatype, classified.array

    def _placed(self, name: str, raw: Buffer) -> Buffer:
        """Write an output to its place in shared memory, and return what remains for the message."""
        self._placements[name].write(bytes(raw))
        return b""


class CallReply:
    """Sends the result of a request to its call."""

    __slots__ = ("_call", "_encoder", "_request_id")

    def __init__(self, call: Call, encoder: Encoder, request_id: bytes) -> None:
        self._call, self._encoder, self._request_id = call, encoder, request_id

    def succeed(self, outputs: Arrays) -> None:
        """Encode the outputs and send them."""
        if self._call.is_cancelled:
            return
        try:
            response = self._encoder.encode(self._request_id, outputs)
        except Exception as error:  # noqa: BLE001  an output that cannot be delivered is this request's error
            self.fail(error)
        else:
            self._call.respond(response)

    def fail(self, error: Exception) -> None:
        """Send the error."""
        self._call.fail(error)


def _raw(name: str, datatype: str, array: NDArray[Any]) -> Buffer:
    """Return an array's raw data, without a copy where its memory already is what the protocol needs."""
    if array.dtype.kind in "fiu" and array.size and array.flags.c_contiguous:
        return array.data.cast("B") if array.ndim else array.tobytes()
    return codec.to_raw(Tensor(name, datatype, array))
