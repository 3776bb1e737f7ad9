"""Handlers of the RPCs about models and the server: convert the request, call the engine, convert the result."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from typing import Any

from google.protobuf.message import Message

from protos import inference, introspect
from protos.keys import MAX_MESSAGE_KEY
from protos.version import VERSION
from serve.devices import cuda
from serve.engine.model_manager import ModelManager
from serve.engine.model_registry import ModelRegistry
from serve.errors import UnsupportedError
from serve.frontends.choice import Frontend
from serve.frontends.grpc.statistics import statistics_message
from serve.wire.tensors import TensorSpec

NAME = "zoonnx"
EXTENSIONS = (
    "classification",
    "model_repository",
    "schedule_policy",
    "model_configuration",
    "system_shared_memory",
    "parameters",
    "statistics",
    "logging",
)
ModelIndex = inference.RepositoryIndexResponse.ModelIndex
Handler = Callable[[Any], Awaitable[Message]]
TensorMetadata = inference.ModelMetadataResponse.TensorMetadata


class InferenceService:
    """RPCs of Triton's `inference.GRPCInferenceService`, except for inference; clients are told `max_message_bytes`."""

    def __init__(
        self, registry: ModelRegistry, manager: ModelManager, frontend: Frontend, max_message_bytes: int
    ) -> None:
        self._registry, self._manager = registry, manager
        self._max_message_bytes = max_message_bytes
        self._extensions = (
            *EXTENSIONS,
            *(() if cuda.missing() else ("cuda_shared_memory",)),
            f"grpc_frontend({frontend})",
        )

    def handlers(self) -> dict[str, Handler]:
        """Return the handlers of the unary RPCs by name."""
        return {
            "ServerLive": self._live,
            "ServerReady": self._ready,
            "ServerMetadata": self._server_metadata,
            "ModelReady": self._model_ready,
            "ModelMetadata": self._model_metadata,
            "ModelConfig": self._model_config,
            "ModelStatistics": self._statistics,
            "RepositoryIndex": self._index,
            "RepositoryModelLoad": self._load,
            "RepositoryModelUnload": self._unload,
        }

    async def _live(self, _: inference.ServerLiveRequest) -> inference.ServerLiveResponse:
        return inference.ServerLiveResponse(live=True)

    async def _ready(self, _: inference.ServerReadyRequest) -> inference.ServerReadyResponse:
        return inference.ServerReadyResponse(ready=self._registry.ready)

    async def _server_metadata(self, _: inference.ServerMetadataRequest) -> inference.ServerMetadataResponse:
        return inference.ServerMetadataResponse(name=NAME, version=VERSION, extensions=self._extensions)

    async def _model_ready(self, request: inference.ModelReadyRequest) -> inference.ModelReadyResponse:
        return inference.ModelReadyResponse(ready=self._registry.is_ready(request.name, request.version))

    async def _model_metadata(self, request: inference.ModelMetadataRequest) -> inference.ModelMetadataResponse:
        model = self._registry.model(request.name, request.version)
        return inference.ModelMetadataResponse(
            name=model.name,
            versions=map(str, self._registry.versions(model.name)),
            platform=model.config.platform,
            inputs=map(_tensor_metadata, model.signature.inputs),
            outputs=map(_tensor_metadata, model.signature.outputs),
        )

    async def _model_config(self, request: inference.ModelConfigRequest) -> inference.ModelConfigResponse:
        response = inference.ModelConfigResponse(config=self._registry.model(request.name, request.version).config)
        response.config.parameters[MAX_MESSAGE_KEY].string_value = str(self._max_message_bytes)
        return response

    async def _statistics(self, request: inference.ModelStatisticsRequest) -> inference.ModelStatisticsResponse:
        models = self._registry.models(request.name, request.version)
        return inference.ModelStatisticsResponse(model_stats=map(statistics_message, models))

    async def _index(self, request: inference.RepositoryIndexRequest) -> inference.RepositoryIndexResponse:
        _require_unnamed_repository(request.repository_name)
        entries = [
            entry
            for entry in await asyncio.to_thread(self._manager.index)
            if entry.state == "READY" or not request.ready
        ]
        return inference.RepositoryIndexResponse(models=[ModelIndex(**asdict(entry)) for entry in entries])

    async def _load(self, request: inference.RepositoryModelLoadRequest) -> inference.RepositoryModelLoadResponse:
        _require_unnamed_repository(request.repository_name)
        if request.parameters:
            raise UnsupportedError("this server loads models from their own files; load parameters are not supported.")
        await asyncio.to_thread(self._manager.load, request.model_name)
        return inference.RepositoryModelLoadResponse()

    async def _unload(self, request: inference.RepositoryModelUnloadRequest) -> inference.RepositoryModelUnloadResponse:
        _require_unnamed_repository(request.repository_name)
        await asyncio.to_thread(self._manager.unload, request.model_name)
        return inference.RepositoryModelUnloadResponse()


class IntrospectionService:
    """RPCs of `zoonnx.v1.Introspection`: the layers of a model."""

    def __init__(self, registry: ModelRegistry) -> None:
        self._registry = registry

    def handlers(self) -> dict[str, Handler]:
        """Return the handlers by RPC name."""
        return {"Layers": self._layers}

    async def _layers(self, request: introspect.LayersRequest) -> introspect.LayersResponse:
        model = self._registry.model(request.model_name, request.model_version)
        return introspect.LayersResponse(
            model_name=model.name,
            model_version=str(model.version),
            names=model.layers.names,
            layers=model.layers.layers.values(),
        )


def _require_unnamed_repository(name: str) -> None:
    if name:
        raise UnsupportedError(f"this server has one repository, which has no name; got '{name}'.")


def _tensor_metadata(spec: TensorSpec) -> TensorMetadata:
    return TensorMetadata(name=spec.name, datatype=spec.datatype, shape=spec.shape)
