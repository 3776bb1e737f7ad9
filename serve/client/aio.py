"""The same small client for asyncio: many requests at a time."""

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import grpc
import grpc.aio
import numpy.typing as npt

from protos import inference, introspect
from serve.client.image_input import model_input
from serve.client.model_info import LayerInfo, ModelInfo
from serve.client.sync import (
    METHODS,
    channel_options,
    failure,
    infer_answer,
    infer_message,
    is_glob,
    matching_layers,
    model_info,
    require_plain,
    there,
)
from serve.wire.tensors import Array


class AsyncClient:
    """Asks the server at `url` as `serve.client.Client` does; made and used in one event loop."""

    def __init__(self, url: str = "127.0.0.1:8001", timeout_s: float = 60.0, retries: int = 3) -> None:
        self.url, self.timeout_s = url, timeout_s
        self._channel = grpc.aio.insecure_channel(require_plain(url), channel_options(retries))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._channel.close()

    async def live(self) -> bool:
        """Whether the server runs."""
        answer: inference.ServerLiveResponse = await self._call("ServerLive", inference.ServerLiveRequest())
        return answer.live

    async def ready(self) -> bool:
        """Whether the server answers requests."""
        answer: inference.ServerReadyResponse = await self._call("ServerReady", inference.ServerReadyRequest())
        return answer.ready

    async def model(self, name: str) -> ModelInfo:
        """Ask what a model takes and gives. Raises: NoSuchModelError."""
        metadata = await self._call("ModelMetadata", inference.ModelMetadataRequest(name=name))
        answer = await self._call("ModelConfig", inference.ModelConfigRequest(name=name))
        return model_info(metadata, answer.config)

    async def infer(
        self,
        model: str,
        inputs: Mapping[str, npt.ArrayLike],
        outputs: Sequence[str] | None = None,
        version: str = "",
    ) -> dict[str, Array]:
        """Run a model; returns the wanted outputs, or all, by name. Raises: RefusedError."""
        answer = await self._call("ModelInfer", infer_message(model, inputs, outputs, version))
        return infer_answer(answer, self.url)

    async def infer_images(
        self, model: str, files: Sequence[Path | str], outputs: Sequence[str] | None = None, version: str = ""
    ) -> dict[str, Array]:
        """Run a model on image files, prepared by the model's own rule. Raises: UnsupportedModelError, ImageError."""
        info = await self.model(model)
        inputs = await asyncio.to_thread(model_input, info, list(map(Path, files)))
        return await self.infer(model, inputs, outputs, version)

    async def layers(self, model: str, pattern: str = "*", version: str = "") -> tuple[LayerInfo, ...]:
        """List the layers of a model whose names match the glob `pattern`. Raises: NoSuchModelError, RefusedError."""
        request = introspect.LayersRequest(model_name=model, model_version=version)
        return matching_layers(await self._call("Layers", request), pattern)

    async def activations(
        self, model: str, inputs: Mapping[str, npt.ArrayLike], layers: Sequence[str], version: str = ""
    ) -> dict[str, Array]:
        """Run a model; returns what each layer gave that is named, or matches a glob. Raises: NoSuchLayerError."""
        names: list[str] = []
        for each in layers:
            names += there(model, each, await self.layers(model, each, version)) if is_glob(each) else [each]
        found = await self.infer(model, inputs, names, version)
        return {name: found[name] for name in names}

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
            raise failure(error, self.url, self.timeout_s) from error
