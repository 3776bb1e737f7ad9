"""The synchronous client: numpy arrays in, numpy arrays out. It works with this server and with Triton."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import grpc
import numpy.typing as npt

from protos import inference, introspect
from serve.client.image_input import image_inputs
from serve.client.messages import infer_outputs, infer_request, matching_layers, model_info
from serve.client.model_info import LayerInfo, ModelInfo, fetchable_names, is_glob
from serve.client.rpc import METHODS, channel_options, checked_address, client_error
from serve.errors import UnreachableError
from serve.wire.tensors import Array


class Client:
    """A connection to one server of the Open Inference Protocol; use it as a context manager, or call `close`.

    A call that fails raises a ClientError: UnreachableError if there is no server or it is stopping, TimedOutError
    after `timeout_s`, or an error that the method lists. Only UNAVAILABLE calls are retried, with increasing delays.

    Args:
        url: HOST:PORT of the server's gRPC port, without a scheme.
        timeout_s: Time limit of one call in seconds, including retries.
        retries: Largest number of retries of an UNAVAILABLE call, 0 to 4.

    Raises:
        SettingsError: `url` begins with a scheme such as http://, or `retries` is out of range.
    """

    def __init__(self, url: str = "127.0.0.1:8001", timeout_s: float = 60.0, retries: int = 3) -> None:
        self.url, self.timeout_s = url, timeout_s
        self._channel = grpc.insecure_channel(checked_address(url), channel_options(retries))

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

        Text and bytes are sent as BYTES and returned as arrays of `bytes`. A BF16 output is returned as float32; a BF16
        input is an array of dtype bfloat16 of the package ml_dtypes.

        Args:
            model: The model's name.
            inputs: An array per input, batch first, of the shape and datatype that `model` reports.
            outputs: The names of the outputs to return, layers included; None returns all outputs of the model.
            version: The model's version; empty for the newest.

        Raises:
            NoSuchModelError: The server does not have the model or the version.
            RefusedError: An input or output does not match the model.
            ServerFailedError: The model failed on these inputs.
        """
        response = self._call("ModelInfer", infer_request(model, inputs, outputs, version))
        return infer_outputs(response, self.url)

    def infer_images(
        self, model: str, files: Sequence[Path | str], outputs: Sequence[str] | None = None, version: str = ""
    ) -> dict[str, Array]:
        """Run a model on image files, in one request, and return its outputs by name, one row per file.

        The client resizes and crops the images, with the preprocessing that is stored with the model. `outputs` and
        `version` are those of `infer`.

        Raises:
            NoSuchModelError: The server does not have the model or the version.
            UnsupportedModelError: The model does not accept images, or does not define their preprocessing.
            ImageError: A file is not an image.
            RefusedError: There are more files than the model's largest batch, or an output does not exist.
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
