"""What the RPCs do: convert, call the core, convert."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from typing import Any

from google.protobuf.message import Message

from protos import inference, introspect
from protos.version import VERSION
from serve.devices import cuda
from serve.engine import validation
from serve.engine.model_manager import ModelManager
from serve.engine.model_registry import ModelRegistry
from serve.errors import UnsupportedError
from serve.frontends.grpc.statistics import statistics_message
from serve.shared_memory.regions import Regions
from serve.wire import codec
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
    """Triton's service."""

    def __init__(self, core: ModelRegistry, control: ModelManager, regions: Regions) -> None:
        self._core, self._control, self._regions = core, control, regions

    def handlers(self) -> dict[str, Handler]:
        """The RPCs that there are; the others answer UNIMPLEMENTED."""
        return {
            "ServerLive": self._live,
            "ServerReady": self._ready,
            "ServerMetadata": self._server_metadata,
            "ModelReady": self._model_ready,
            "ModelMetadata": self._model_metadata,
            "ModelConfig": self._model_config,
            "ModelInfer": self._infer,
            "ModelStatistics": self._statistics,
            "RepositoryIndex": self._index,
            "RepositoryModelLoad": self._load,
            "RepositoryModelUnload": self._unload,
        }

    def stream_handlers(self) -> dict[str, Handler]:
        """The RPCs that answer a stream of requests, one by one; `stream_failure` is what a failed one gets."""
        return {"ModelStreamInfer": self._stream_infer}

    async def _live(self, _: inference.ServerLiveRequest) -> inference.ServerLiveResponse:
        return inference.ServerLiveResponse(live=True)

    async def _ready(self, _: inference.ServerReadyRequest) -> inference.ServerReadyResponse:
        return inference.ServerReadyResponse(ready=self._core.ready)

    async def _server_metadata(self, _: inference.ServerMetadataRequest) -> inference.ServerMetadataResponse:
        extensions = EXTENSIONS if cuda.missing() else (*EXTENSIONS, "cuda_shared_memory")
        return inference.ServerMetadataResponse(name=NAME, version=VERSION, extensions=extensions)

    async def _model_ready(self, request: inference.ModelReadyRequest) -> inference.ModelReadyResponse:
        return inference.ModelReadyResponse(ready=self._core.is_ready(request.name, request.version))

    async def _model_metadata(self, request: inference.ModelMetadataRequest) -> inference.ModelMetadataResponse:
        model = self._core.model(request.name, request.version)
        return inference.ModelMetadataResponse(
            name=model.name,
            versions=map(str, self._core.versions(model.name)),
            platform=model.config.platform,
            inputs=map(_metadata, model.signature.inputs),
            outputs=map(_metadata, model.signature.outputs),
        )

    async def _model_config(self, request: inference.ModelConfigRequest) -> inference.ModelConfigResponse:
        return inference.ModelConfigResponse(config=self._core.model(request.name, request.version).config)

    async def _infer(self, message: inference.ModelInferRequest) -> inference.ModelInferResponse:
        model = self._core.model(message.model_name, message.model_version)  # an unknown model before a bad tensor
        validation.descriptions(message.inputs, model.signature)
        if codec.is_long(message):
            request = await asyncio.to_thread(codec.request_from_message, message, self._regions)
        else:
            request = codec.request_from_message(message, self._regions)
        places = codec.places(message, self._regions)
        return codec.message_from_response(await self._core.infer(request), places)

    async def _stream_infer(self, message: inference.ModelInferRequest) -> inference.ModelStreamInferResponse:
        answer = await self._infer(message)
        answer.parameters["triton_final_response"].bool_param = True
        return inference.ModelStreamInferResponse(infer_response=answer)

    async def _statistics(self, request: inference.ModelStatisticsRequest) -> inference.ModelStatisticsResponse:
        models = self._core.models(request.name, request.version)
        return inference.ModelStatisticsResponse(model_stats=map(statistics_message, models))

    async def _index(self, request: inference.RepositoryIndexRequest) -> inference.RepositoryIndexResponse:
        _check_one_repository(request.repository_name)
        entries = [each for each in await self._control.index() if each.state == "READY" or not request.ready]
        return inference.RepositoryIndexResponse(models=[ModelIndex(**asdict(entry)) for entry in entries])

    async def _load(self, request: inference.RepositoryModelLoadRequest) -> inference.RepositoryModelLoadResponse:
        _check_one_repository(request.repository_name)
        if request.parameters:
            raise UnsupportedError("this server loads a model's own files; it takes no parameters for that.")
        await self._control.load(request.model_name)
        return inference.RepositoryModelLoadResponse()

    async def _unload(self, request: inference.RepositoryModelUnloadRequest) -> inference.RepositoryModelUnloadResponse:
        _check_one_repository(request.repository_name)
        await self._control.unload(request.model_name)
        return inference.RepositoryModelUnloadResponse()


class IntrospectionService:
    """What a model's file tells of its layers."""

    def __init__(self, core: ModelRegistry) -> None:
        self._core = core

    def handlers(self) -> dict[str, Handler]:
        """The RPCs of our own service."""
        return {"Layers": self._layers}

    async def _layers(self, request: introspect.LayersRequest) -> introspect.LayersResponse:
        model = self._core.model(request.model_name, request.model_version)
        return introspect.LayersResponse(
            model_name=model.name,
            model_version=str(model.version),
            names=model.layers.names,
            layers=model.layers.layers.values(),
        )


def stream_failure(request_id: str, words: str) -> inference.ModelStreamInferResponse:
    """What a request of a stream gets that cannot be answered; the stream goes on."""
    answer = inference.ModelInferResponse(id=request_id)
    return inference.ModelStreamInferResponse(error_message=words, infer_response=answer)


def _check_one_repository(name: str) -> None:
    if name:
        raise UnsupportedError(f"this server has one repository, without a name; got '{name}'.")


def _metadata(spec: TensorSpec) -> TensorMetadata:
    return TensorMetadata(name=spec.name, datatype=spec.datatype, shape=spec.shape)
