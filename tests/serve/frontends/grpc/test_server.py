"""Tests of the construction of the gRPC server."""

from pathlib import Path

import pytest

from serve.engine.engine import Engine
from serve.frontends.grpc.health import Health
from serve.frontends.grpc.inference import Handler, InferenceService, IntrospectionService
from serve.frontends.grpc.server import GrpcServer
from serve.settings import ServerSettings


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("service", "method", "name", "message"),
    [
        (InferenceService, "handlers", "ModelInfre", "inference.GRPCInferenceService has no RPC ModelInfre"),
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
    health, settings = Health(), ServerSettings(models=tmp_path)
    with pytest.raises(ValueError, match=message):
        GrpcServer(Engine(settings, health.set_model), health, settings, "grpcio")
