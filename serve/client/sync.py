"""The synchronous client: numpy arrays in, numpy arrays out. It works with this server and with Triton."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import grpc
import numpy.typing as npt

from protos import inference, introspect
from serve.client.batches import Limits, join, limits_of, may_exceed, require_split_layers, split
from serve.client.image_input import image_inputs
from serve.client.messages import infer_outputs, infer_request, matching_layers, model_info
from serve.client.model_info import LayerInfo, ModelInfo, fetchable_names, is_glob
from serve.client.rpc import METHODS, channel_options, checked_address, client_error
from serve.errors import RefusedError, UnreachableError
from serve.wire import codec
from serve.wire.tensors import Array, Request


class Client:
    """A connection to one server of the Open Inference Protocol; use it as a context manager, or call `close`.

    A call that fails raises a ClientError: UnreachableError if there is no server or it is stopping, TimedOutError
    after `timeout_s`, or an error that the method lists. Only UNAVAILABLE calls are retried, with increasing delays.

    Args:
        url: HOST:PORT of the server's gRPC port, without a scheme.
        timeout_s: Time limit of one request in seconds, including retries.
        retries: Largest number of retries of an UNAVAILABLE call, 0 to 4.

    Raises:
        SettingsError: `url` begins with a scheme such as http://, or `retries` is out of range.
    """

    def __init__(self, url: str = "127.0.0.1:8001", timeout_s: float = 60.0, retries: int = 3) -> None:
        self.url, self.timeout_s = url, timeout_s
        self._channel = grpc.insecure_channel(checked_address(url), channel_options(retries))
        self._limits: dict[tuple[str, str], Limits] = {}  # by model and version; asked again after a refused request

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; calls in flight are cancelled."""
        self._channel.close()

    def wait_connected(self, within_s: float) -> None:
        """Wait up to `within_s` seconds for a starting server.

        Raises:
            UnreachableError: No server accepted a connection in that time.
        """
        try:
            grpc.channel_ready_future(self._channel).result(timeout=within_s)
        except grpc.FutureTimeoutError as error:
            raise UnreachableError(
                f"cannot reach a server at {self.url} within {within_s:g} s: "
                "check that it is running and that this is its gRPC port."
            ) from error

    def live(self) -> bool:
        """Return whether the server is running.

        Raises:
            ClientError: The call failed.
        """
        response: inference.ServerLiveResponse = self._call("ServerLive", inference.ServerLiveRequest())
        return response.live

    def ready(self) -> bool:
        """Return whether the server accepts inference requests.

        Raises:
            ClientError: The call failed.
        """
        response: inference.ServerReadyResponse = self._call("ServerReady", inference.ServerReadyRequest())
        return response.ready

    def model(self, name: str) -> ModelInfo:
        """Return a model's inputs, outputs, labels and preprocessing.

        Raises:
            NoSuchModelError: The server does not have the model.
            UnsupportedModelError: The model's preprocessing is not supported by this client.
        """
        metadata: inference.ModelMetadataResponse
        response: inference.ModelConfigResponse
        metadata = self._call("ModelMetadata", inference.ModelMetadataRequest(name=name))
        response = self._call("ModelConfig", inference.ModelConfigRequest(name=name))
        return model_info(metadata, response.config)

    def infer(
        self,
        model: str,
        inputs: Mapping[str, npt.ArrayLike],
        outputs: Sequence[str] | None = None,
        version: str = "",
    ) -> dict[str, Array]:
        """Run a model on arrays, and return its outputs by name.

        A batch beyond the model's `max_batch_size` or the server's message limit is sent in several requests, one after
        the other; the outputs are those of one batch.

        Text and bytes are sent as BYTES and returned as arrays of `bytes`. A BF16 output is returned as float32; a BF16
        input is an array of dtype bfloat16 of the package ml_dtypes.

        Args:
            model: The model's name.
            inputs: An array per input, batch first, of the shape and datatype that `model` reports.
            outputs: The names of the outputs to return, layers included; None returns all outputs of the model.
            version: The model's version; empty for the newest.

        Raises:
            NoSuchModelError: The server does not have the model or the version.
            RefusedError: An input or output does not match the model, or one row exceeds the server's message limit.
            ServerFailedError: The model failed on these inputs.
        """
        request = infer_request(model, inputs, outputs, version)
        limits = self._limits_for(request) if may_exceed(request) else Limits()
        parts = split(request, limits)
        if len(parts) > 1 and not limits.outputs.issuperset(request.outputs):
            require_split_layers(request, limits, self.layers(model, version=version))
        return join(parts, self._infer_parts(parts))

    def _infer_parts(self, parts: Sequence[Request]) -> list[dict[str, Array]]:
        """Run the parts of a batch on one version of the model: the one that answers first."""
        outputs, version = [], parts[0].version
        for part in parts:
            try:
                response = self._call("ModelInfer", codec.message_from_request(replace(part, version=version)))
            except RefusedError:
                self._limits.pop((part.model, part.version), None)
                raise
            outputs.append(infer_outputs(response, self.url))
            version = version or response.model_version
        return outputs

    def _limits_for(self, request: Request) -> Limits:
        key = (request.model, request.version)
        if key not in self._limits:
            try:
                message = inference.ModelConfigRequest(name=request.model, version=request.version)
                self._limits[key] = limits_of(self._call("ModelConfig", message).config)
            except RefusedError:  # a server without this RPC, or a version that the request itself reports better
                return Limits()
        return self._limits[key]

    def infer_images(
        self, model: str, files: Sequence[Path | str], outputs: Sequence[str] | None = None, version: str = ""
    ) -> dict[str, Array]:
        """Run a model on image files, and return its outputs by name, one row per file.

        The client resizes and crops the images, with the preprocessing that is stored with the model. `outputs` and
        `version` are those of `infer`.

        Raises:
            NoSuchModelError: The server does not have the model or the version.
            UnsupportedModelError: The model does not accept images, or does not define their preprocessing.
            ImageError: A file is not an image.
            RefusedError: An output does not exist, or one image exceeds the server's message limit.
        """
        return self.infer(model, image_inputs(self.model(model), list(map(Path, files))), outputs, version)

    def layers(self, model: str, pattern: str = "*", version: str = "") -> tuple[LayerInfo, ...]:
        """List the layers whose names match the glob `pattern`, in the order in which the network calls them.

        Raises:
            NoSuchModelError: The server does not have the model or the version.
            RefusedError: The server is not a zoonnx server, and cannot list layers.
        """
        response: introspect.LayersResponse
        response = self._call("Layers", introspect.LayersRequest(model_name=model, model_version=version))
        return matching_layers(response, pattern)

    def activations(
        self, model: str, inputs: Mapping[str, npt.ArrayLike], layers: Sequence[str], version: str = ""
    ) -> dict[str, Array]:
        """Run a model, and return the outputs of `layers` by name, batch first if the layer has a batch.

        A name with a wildcard, such as `layer1.*`, selects all matching layers that are in the model's file. `inputs`
        and `version` are those of `infer`.

        Raises:
            NoSuchModelError: The server does not have the model or the version.
            NoSuchLayerError: No layer matches a pattern, or no matching layer is in the file.
            RefusedError: A named layer does not exist or is not in the file; the message gives the reason.
        """
        names = [name for layer in layers for name in self._layer_names(model, layer, version)]
        outputs = self.infer(model, inputs, names, version)
        return {name: outputs[name] for name in names}

    def _layer_names(self, model: str, layer: str, version: str) -> list[str]:
        return fetchable_names(model, layer, self.layers(model, layer, version)) if is_glob(layer) else [layer]

    def _call(self, name: str, request: Any) -> Any:
        """Make one call; the only place that translates gRPC errors."""
        method = METHODS[name]
        call = self._channel.unary_unary(
            method.path,
            request_serializer=method.request.SerializeToString,
            response_deserializer=method.response.FromString,
        )
        try:
            return call(request, timeout=self.timeout_s)
        except grpc.RpcError as error:
            raise client_error(error, self.url, self.timeout_s) from error
