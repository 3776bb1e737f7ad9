"""The asyncio client, for concurrent calls; it has the methods of `serve.client.Client`."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import grpc
import grpc.aio
import numpy.typing as npt

from protos import inference, introspect
from serve.client.batches import Limits, join, limits_of, may_exceed, require_split_layers, split
from serve.client.image_input import image_inputs
from serve.client.messages import infer_outputs, infer_request, matching_layers, model_info
from serve.client.model_info import LayerInfo, ModelInfo, fetchable_names, is_glob
from serve.client.rpc import METHODS, channel_options, checked_address, client_error
from serve.errors import RefusedError
from serve.wire import codec
from serve.wire.tensors import Array, Request


class AsyncClient:
    """An asyncio connection to one server, with the arguments, errors and retries of `serve.client.Client`.

    Create and use it in one event loop, as an async context manager. For the arguments of its methods, see `Client`.

    Raises:
        SettingsError: `url` begins with a scheme such as http://, or `retries` is out of range.
    """

    def __init__(self, url: str = "127.0.0.1:8001", timeout_s: float = 60.0, retries: int = 3) -> None:
        self.url, self.timeout_s = url, timeout_s
        self._channel = grpc.aio.insecure_channel(checked_address(url), channel_options(retries))
        self._limits: dict[tuple[str, str], Limits] = {}  # by model and version; asked again after a refused request

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._channel.close()

    async def live(self) -> bool:
        """Return whether the server is running. Raises: ClientError."""
        response: inference.ServerLiveResponse = await self._call("ServerLive", inference.ServerLiveRequest())
        return response.live

    async def ready(self) -> bool:
        """Return whether the server accepts inference requests. Raises: ClientError."""
        response: inference.ServerReadyResponse = await self._call("ServerReady", inference.ServerReadyRequest())
        return response.ready

    async def model(self, name: str) -> ModelInfo:
        """Return a model's inputs, outputs, labels and preprocessing.

        Raises:
            NoSuchModelError: The server does not have the model.
            UnsupportedModelError: The model's preprocessing is not supported by this client.
        """
        metadata = await self._call("ModelMetadata", inference.ModelMetadataRequest(name=name))
        response = await self._call("ModelConfig", inference.ModelConfigRequest(name=name))
        return model_info(metadata, response.config)

    async def infer(
        self,
        model: str,
        inputs: Mapping[str, npt.ArrayLike],
        outputs: Sequence[str] | None = None,
        version: str = "",
    ) -> dict[str, Array]:
        """Run a model on arrays, batch first, and return the requested outputs, or all, by name.

        Raises:
            NoSuchModelError: The server does not have the model or the version.
            RefusedError: An input or output does not match the model, or one row exceeds the server's message limit.
            ServerFailedError: The model failed on these inputs.
        """
        request = infer_request(model, inputs, outputs, version)
        limits = await self._limits_for(request) if may_exceed(request) else Limits()
        parts = split(request, limits)
        if len(parts) > 1 and not limits.outputs.issuperset(request.outputs):
            require_split_layers(request, limits, await self.layers(model, version=version))
        return join(parts, await self._infer_parts(parts))

    async def _infer_parts(self, parts: Sequence[Request]) -> list[dict[str, Array]]:
        outputs, version = [], parts[0].version
        for part in parts:
            try:
                response = await self._call("ModelInfer", codec.message_from_request(replace(part, version=version)))
            except RefusedError:
                self._limits.pop((part.model, part.version), None)
                raise
            outputs.append(infer_outputs(response, self.url))
            version = version or response.model_version
        return outputs

    async def _limits_for(self, request: Request) -> Limits:
        key = (request.model, request.version)
        if key not in self._limits:
            try:
                message = inference.ModelConfigRequest(name=request.model, version=request.version)
                self._limits[key] = limits_of((await self._call("ModelConfig", message)).config)
            except RefusedError:
                return Limits()
        return self._limits[key]

    async def infer_images(
        self, model: str, files: Sequence[Path | str], outputs: Sequence[str] | None = None, version: str = ""
    ) -> dict[str, Array]:
        """Run a model on image files, and return its outputs by name, one row per file.

        Raises:
            NoSuchModelError: The server does not have the model or the version.
            UnsupportedModelError: The model does not accept images, or does not define their preprocessing.
            ImageError: A file is not an image.
            RefusedError: An output does not exist, or one image exceeds the server's message limit.
        """
        info = await self.model(model)
        inputs = await asyncio.to_thread(image_inputs, info, list(map(Path, files)))
        return await self.infer(model, inputs, outputs, version)

    async def layers(self, model: str, pattern: str = "*", version: str = "") -> tuple[LayerInfo, ...]:
        """List the layers whose names match the glob `pattern`. Raises: NoSuchModelError, RefusedError."""
        request = introspect.LayersRequest(model_name=model, model_version=version)
        return matching_layers(await self._call("Layers", request), pattern)

    async def activations(
        self, model: str, inputs: Mapping[str, npt.ArrayLike], layers: Sequence[str], version: str = ""
    ) -> dict[str, Array]:
        """Run a model, and return the outputs of `layers`, names or globs, by name.

        Raises:
            NoSuchModelError: The server does not have the model or the version.
            NoSuchLayerError: No layer matches a pattern, or no matching layer is in the file.
            RefusedError: A named layer does not exist or is not in the file.
        """
        names = [name for layer in layers for name in await self._layer_names(model, layer, version)]
        outputs = await self.infer(model, inputs, names, version)
        return {name: outputs[name] for name in names}

    async def _layer_names(self, model: str, layer: str, version: str) -> list[str]:
        return fetchable_names(model, layer, await self.layers(model, layer, version)) if is_glob(layer) else [layer]

    async def _call(self, name: str, request: Any) -> Any:
        method = METHODS[name]
        call = self._channel.unary_unary(
            method.path,
            request_serializer=method.request.SerializeToString,
            response_deserializer=method.response.FromString,
        )
        try:
            return await call(request, timeout=self.timeout_s)
        except grpc.RpcError as error:
            raise client_error(error, self.url, self.timeout_s) from error
