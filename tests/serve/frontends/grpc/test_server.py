"""Tests of the construction of the gRPC server."""

from pathlib import Path

import pytest

from serve.engine.model_manager import ModelManager
from serve.engine.model_registry import ModelRegistry
from serve.frontends.grpc.health import Health
from serve.frontends.grpc.inference import Handler, InferenceService, IntrospectionService
from serve.frontends.grpc.server import GrpcServer
from serve.settings import ServerSettings


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("service", "method", "name", "message"),
    [
        (InferenceService, "handlers", "ModelInfre", "inference.GRPCInferenceService has no RPC ModelInfre"),
        (InferenceService, "stream_handlers", "ModelStream", "inference.GRPCInferenceService has no RPC ModelStream"),
        (IntrospectionService, "handlers", "layers", r"zoonnx.v1.Introspection has no RPC layers"),
    ],
)
async def test_unknown_rpc(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, service: type, method: str, name: str, message: str
) -> None:
    """A handler whose name is not an RPC of its service is an error when the server is created."""

    def handlers(_: object) -> dict[str, Handler]:
        return {name: None}  # type: ignore[dict-item]

    monkeypatch.setattr(service, method, handlers)
    registry, health, settings = ModelRegistry(), Health(), ServerSettings(models=tmp_path)
    with pytest.raises(ValueError, match=message):
        GrpcServer(registry, ModelManager(registry, settings, health.set_model), health, settings)
