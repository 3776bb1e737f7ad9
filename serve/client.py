"""A small client: numpy in, numpy out. Works with this server and with a Triton."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, NoReturn, Self

import grpc
import numpy as np
import numpy.typing as npt

from protos import inference, loader
from serve import codec, datatypes
from serve.errors import (
    ClientError,
    InvalidRequestError,
    NoSuchModelError,
    RefusedError,
    ServerFailedError,
    TimedOutError,
    UnreachableError,
)
from serve.preprocessing import Preprocessing
from serve.tensors import Array, Request, Tensor, TensorSpec

LABELS = "zoonnx.labels"
METHODS = {method.name: method for method in loader.service("inference.GRPCInferenceService")}
ERRORS: Mapping[grpc.StatusCode, type[ClientError]] = {
    grpc.StatusCode.UNAVAILABLE: UnreachableError,
    grpc.StatusCode.DEADLINE_EXCEEDED: TimedOutError,
    grpc.StatusCode.NOT_FOUND: NoSuchModelError,
    grpc.StatusCode.INVALID_ARGUMENT: RefusedError,
    grpc.StatusCode.RESOURCE_EXHAUSTED: RefusedError,
    grpc.StatusCode.UNIMPLEMENTED: RefusedError,
}


@dataclass(frozen=True)
class ModelInfo:
    """What a server says of a model. `version` is the newest; labels and preprocessing are an export's."""

    name: str
    version: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    max_batch_size: int
    labels: tuple[str, ...]
    preprocessing: Preprocessing | None


class Client:
    """Asks the server at `url` (HOST:PORT). Every call raises a ClientError where there is no answer."""

    def __init__(self, url: str = "127.0.0.1:8001", timeout_s: float = 60.0) -> None:
        self.url, self.timeout_s = url, timeout_s
        unlimited = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
        self._channel = grpc.insecure_channel(url, unlimited)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let the connection go."""
        self._channel.close()

    def live(self) -> bool:
        """Whether the server runs."""
        answer: inference.ServerLiveResponse = self._call("ServerLive", inference.ServerLiveRequest())
        return answer.live

    def ready(self) -> bool:
        """Whether the server answers requests."""
        answer: inference.ServerReadyResponse = self._call("ServerReady", inference.ServerReadyRequest())
        return answer.ready

    def model(self, name: str) -> ModelInfo:
        """Ask what a model takes and gives.

        Raises:
            NoSuchModelError: the server does not have it.
        """
        metadata: inference.ModelMetadataResponse
        answer: inference.ModelConfigResponse
        metadata = self._call("ModelMetadata", inference.ModelMetadataRequest(name=name))
        answer = self._call("ModelConfig", inference.ModelConfigRequest(name=name))
        parameters = answer.config.parameters
        return ModelInfo(
            name=name,
            version=max(metadata.versions, key=int, default=""),
            inputs=tuple(map(_spec, metadata.inputs)),
            outputs=tuple(map(_spec, metadata.outputs)),
            max_batch_size=answer.config.max_batch_size,
            labels=tuple(json.loads(parameters[LABELS].string_value)) if LABELS in parameters else (),
            preprocessing=Preprocessing.from_parameters(parameters),
        )

    def infer(
        self,
        model: str,
        inputs: Mapping[str, npt.ArrayLike],
        outputs: Sequence[str] | None = None,
        version: str = "",
    ) -> dict[str, Array]:
        """Run a model; returns the wanted outputs, or all, by name.

        Text and bytes travel as BYTES and come back as arrays of `bytes`; a BF16 output comes as float32.

        Raises:
            RefusedError: the inputs are not what the model takes.
        """
        tensors = tuple(_tensor(name, np.asarray(values)) for name, values in inputs.items())
        message = codec.message_from_request(Request(model, version, "", tensors, tuple(outputs or ())))
        answer: inference.ModelInferResponse = self._call("ModelInfer", message)
        try:
            found = list(codec.tensors(answer.outputs, answer.raw_output_contents))
        except InvalidRequestError as error:
            raise ServerFailedError(f"{self.url} sent an answer that contradicts itself: {error}") from error
        return {tensor.name: _plain(tensor) for tensor in found}

    def _call(self, name: str, request: Any) -> Any:
        """Make one call; the only place where gRPC's errors become ours."""
        method = METHODS[name]
        call = self._channel.unary_unary(
            method.path,
            request_serializer=method.request.SerializeToString,
            response_deserializer=method.response.FromString,
        )
        try:
            return call(request, timeout=self.timeout_s)
        except grpc.RpcError as error:
            self._fail(error)

    def _fail(self, error: Any) -> NoReturn:
        code: grpc.StatusCode = error.code()
        kind = ERRORS.get(code, ServerFailedError)
        words = {
            UnreachableError: f"no server answers at {self.url}: {error.details()}",
            TimedOutError: f"{self.url} did not answer within {self.timeout_s:g} s.",
        }
        raise kind(words.get(kind, f"{self.url} answered {code.name}: {error.details()}")) from error


def _spec(described: inference.ModelMetadataResponse.TensorMetadata) -> TensorSpec:
    return TensorSpec(described.name, described.datatype, tuple(described.shape))


def _tensor(name: str, array: Array) -> Tensor:
    if array.dtype.kind in "OSU":
        flat = [each.encode() if isinstance(each, str) else bytes(each) for each in array.ravel().tolist()]
        return Tensor(name, datatypes.BYTES.name, np.array(flat, object).reshape(array.shape))
    datatype = datatypes.BY_NUMPY.get(array.dtype.newbyteorder("<"))
    if datatype is None:
        raise RefusedError(f"input '{name}': numpy's {array.dtype} has no place in the protocol.")
    return Tensor(name, datatype.name, array)


def _plain(tensor: Tensor) -> Array:
    if tensor.datatype == datatypes.BF16.name:  # the upper half of a float32
        return (tensor.array.astype(np.uint32) << 16).view(np.float32)
    return tensor.array
