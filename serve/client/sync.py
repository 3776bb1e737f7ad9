"""A small client: numpy in, numpy out. Works with this server and with a Triton."""

import json
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import grpc
import numpy as np
import numpy.typing as npt

from protos import inference, introspect, loader, manifest
from serve.client.image_input import model_input
from serve.client.model_info import LayerInfo, ModelInfo, require_fetchable
from serve.client.preprocessing import Preprocessing
from serve.errors import (
    ClientError,
    InvalidRequestError,
    NoSuchLayerError,
    NoSuchModelError,
    RefusedError,
    ServerFailedError,
    SettingsError,
    TimedOutError,
    UnreachableError,
)
from serve.repository.layer_index import where_it_went
from serve.wire import codec, datatypes
from serve.wire.tensors import Array, Request, Tensor, TensorSpec

LABELS = "zoonnx.labels"
TASK, MULTI_LABEL = "zoonnx.task", "multi-label"
SERVICES = ("inference.GRPCInferenceService", "zoonnx.v1.Introspection")
METHODS = {method.name: method for service in SERVICES for method in loader.service(service)}
CHANNEL_OPTIONS = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
)
MOST_RETRIES = 4
ERRORS: Mapping[grpc.StatusCode, type[ClientError]] = {
    grpc.StatusCode.UNAVAILABLE: UnreachableError,
    grpc.StatusCode.DEADLINE_EXCEEDED: TimedOutError,
    grpc.StatusCode.NOT_FOUND: NoSuchModelError,
    grpc.StatusCode.INVALID_ARGUMENT: RefusedError,
    grpc.StatusCode.ALREADY_EXISTS: RefusedError,
    grpc.StatusCode.RESOURCE_EXHAUSTED: RefusedError,
    grpc.StatusCode.UNIMPLEMENTED: RefusedError,
}


class Client:
    """Asks the server at `url` (HOST:PORT). Every call raises a ClientError where there is no answer.

    A call that is UNAVAILABLE is made again, up to `retries` times (0 to 4), after growing pauses and within
    `timeout_s`; no other failure is.
    """

    def __init__(self, url: str = "127.0.0.1:8001", timeout_s: float = 60.0, retries: int = 3) -> None:
        self.url, self.timeout_s = url, timeout_s
        self._channel = grpc.insecure_channel(require_plain(url), channel_options(retries))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let the connection go."""
        self._channel.close()

    def wait_connected(self, within_s: float) -> None:
        """Wait for a server that is just starting.

        Raises:
            UnreachableError: none listens there within that time.
        """
        try:
            grpc.channel_ready_future(self._channel).result(timeout=within_s)
        except grpc.FutureTimeoutError as error:
            raise UnreachableError(
                f"no server answers at {self.url} within {within_s:g} s: is one running, and is it its gRPC port?"
            ) from error

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
        return model_info(metadata, answer.config)

    def infer(
        self,
        model: str,
        inputs: Mapping[str, npt.ArrayLike],
        outputs: Sequence[str] | None = None,
        version: str = "",
    ) -> dict[str, Array]:
        """Run a model; returns the wanted outputs, or all, by name.

        Text and bytes travel as BYTES and come back as arrays of `bytes`; a BF16 output comes as float32, and a BF16
        input is an array of the package ml_dtypes.

        Raises:
            RefusedError: the inputs are not what the model takes.
        """
        answer = self._call("ModelInfer", infer_message(model, inputs, outputs, version))
        return infer_answer(answer, self.url)

    def infer_images(
        self, model: str, files: Sequence[Path | str], outputs: Sequence[str] | None = None, version: str = ""
    ) -> dict[str, Array]:
        """Run a model on image files, prepared by the model's own rule, in one request; returns outputs by name.

        Raises:
            UnsupportedModelError: the model does not say how to prepare images.
            ImageError: a file is not an image.
        """
        return self.infer(model, model_input(self.model(model), list(map(Path, files))), outputs, version)

    def layers(self, model: str, pattern: str = "*", version: str = "") -> tuple[LayerInfo, ...]:
        """List the layers of a model whose names match the glob `pattern`, in the order of the network's calls.

        Raises:
            NoSuchModelError: the server does not have the model.
            RefusedError: the server is none of ours and cannot list layers.
        """
        answer: introspect.LayersResponse
        answer = self._call("Layers", introspect.LayersRequest(model_name=model, model_version=version))
        return matching_layers(answer, pattern)

    def activations(
        self, model: str, inputs: Mapping[str, npt.ArrayLike], layers: Sequence[str], version: str = ""
    ) -> dict[str, Array]:
        """Run a model; returns what each of the named layers gave, by name. Globs such as `layer1.*` name many.

        Raises:
            NoSuchLayerError: no layer matches a glob.
            RefusedError: there is no such layer, or it is not in the file; the message says where it went.
        """
        names = [name for each in layers for name in self._expanded(model, each, version)]
        found = self.infer(model, inputs, names, version)
        return {name: found[name] for name in names}

    def _expanded(self, model: str, layer: str, version: str) -> Sequence[str]:
        return [layer] if not is_glob(layer) else there(model, layer, self.layers(model, layer, version))

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
            raise failure(error, self.url, self.timeout_s) from error


def channel_options(retries: int) -> tuple[tuple[str, Any], ...]:
    """How a channel behaves whose calls are made again where they are UNAVAILABLE; gRPC itself sees to it."""
    if not 0 <= retries <= MOST_RETRIES:
        raise SettingsError(f"retries must be between 0 and {MOST_RETRIES}, gRPC's most; got {retries}.")
    if not retries:
        return (*CHANNEL_OPTIONS, ("grpc.enable_retries", 0))
    policy = {
        "maxAttempts": retries + 1,
        "initialBackoff": "0.1s",
        "maxBackoff": "2s",
        "backoffMultiplier": 2,
        "retryableStatusCodes": ["UNAVAILABLE"],
    }
    config = {"methodConfig": [{"name": [{}], "retryPolicy": policy}]}
    return (*CHANNEL_OPTIONS, ("grpc.service_config", json.dumps(config)))


def model_info(metadata: inference.ModelMetadataResponse, config: inference.ModelConfig) -> ModelInfo:
    """Put together what two answers say of a model."""
    parameters = config.parameters
    return ModelInfo(
        name=metadata.name,
        version=max(metadata.versions, key=int, default=""),
        inputs=tuple(map(_spec, metadata.inputs)),
        outputs=tuple(map(_spec, metadata.outputs)),
        max_batch_size=config.max_batch_size,
        labels=tuple(json.loads(parameters[LABELS].string_value)) if LABELS in parameters else (),
        preprocessing=Preprocessing.from_parameters(parameters),
        multi_label=TASK in parameters and parameters[TASK].string_value == MULTI_LABEL,
    )


def infer_message(
    model: str, inputs: Mapping[str, npt.ArrayLike], outputs: Sequence[str] | None, version: str
) -> inference.ModelInferRequest:
    """Write a request of numpy arrays. Raises: RefusedError, for a type that the protocol does not have."""
    tensors = tuple(_tensor(name, np.asarray(values)) for name, values in inputs.items())
    return codec.message_from_request(Request(model, version, "", tensors, tuple(outputs or ())))


def infer_answer(answer: inference.ModelInferResponse, url: str) -> dict[str, Array]:
    """Read an answer as numpy arrays. Raises: ServerFailedError, where it contradicts itself."""
    try:
        found = list(codec.tensors(answer.outputs, answer.raw_output_contents))
    except InvalidRequestError as error:
        raise ServerFailedError(f"{url} sent an answer that contradicts itself: {error}") from error
    return {tensor.name: _plain(tensor) for tensor in found}


def failure(error: Any, url: str, timeout_s: float) -> ClientError:
    """Say in our words what gRPC's error means."""
    code: grpc.StatusCode = error.code()
    kind = ERRORS.get(code, ServerFailedError)
    words = {
        UnreachableError: _unavailable(url, str(error.details())),
        TimedOutError: f"{url} did not answer within {timeout_s:g} s.",
    }
    return kind(words.get(kind, f"{url} answered {code.name}: {error.details()}"))


def _unavailable(url: str, details: str) -> str:
    """gRPC says the same of a server that is not there and of one that answers that it cannot now."""
    is_gone = any(word in details.lower() for word in ("connect", "socket", "resolve", "resolution", "unreachable"))
    return f"no server answers at {url}: {details}" if is_gone else f"{url} answered UNAVAILABLE: {details}"


def require_plain(url: str) -> str:
    """Return an address that gRPC takes. Raises: SettingsError."""
    scheme, _, rest = url.partition("://")
    if scheme in ("http", "https", "grpc", "grpcs"):
        raise SettingsError(f"the address '{url}' begins with {scheme}://: give HOST:PORT alone, {rest.rstrip('/')}.")
    return url


def matching_layers(answer: introspect.LayersResponse, pattern: str) -> tuple[LayerInfo, ...]:
    """Read an answer's layers whose names match a glob, in their order."""
    return tuple(layer for layer in map(_layer, answer.layers) if fnmatchcase(layer.name, pattern))


def is_glob(layer: str) -> bool:
    """Whether a name may stand for several layers; any other name is for the server to judge."""
    return any(sign in layer for sign in "*?[")


def there(model: str, pattern: str, matching: Sequence[LayerInfo]) -> list[str]:
    """Return the names of the layers that match a glob and are in the file. Raises: NoSuchLayerError."""
    if not matching:
        raise NoSuchLayerError(f"no layer of model '{model}' matches '{pattern}'.")
    require_fetchable(matching)
    return [each.name for each in matching if each.fetchable]


def _layer(described: manifest.Layer) -> LayerInfo:
    whereabouts = "" if described.value else where_it_went(described)
    return LayerInfo(described.name, described.kind, tuple(described.shape), whereabouts, described.value)


def _spec(described: inference.ModelMetadataResponse.TensorMetadata) -> TensorSpec:
    return TensorSpec(described.name, described.datatype, tuple(described.shape))


def _tensor(name: str, array: Array) -> Tensor:
    if array.dtype.kind in "OSU":
        flat = [each.encode() if isinstance(each, str) else bytes(each) for each in array.ravel().tolist()]
        return Tensor(name, datatypes.BYTES.name, np.array(flat, object).reshape(array.shape))
    if array.dtype.name == "bfloat16":  # that of the package ml_dtypes
        return Tensor(name, datatypes.BF16.name, np.ascontiguousarray(array).view(datatypes.BF16.numpy))
    datatype = datatypes.BY_NUMPY.get(array.dtype.newbyteorder("<"))
    if datatype is None:
        raise RefusedError(f"input '{name}': numpy's {array.dtype} has no place in the protocol.")
    return Tensor(name, datatype.name, array)


def _plain(tensor: Tensor) -> Array:
    if tensor.datatype == datatypes.BF16.name:  # the upper half of a float32
        return (tensor.array["bits"].astype(np.uint32) << 16).view(np.float32)
    return tensor.array
