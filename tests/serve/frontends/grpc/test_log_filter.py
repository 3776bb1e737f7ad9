"""Tests of the filter for gRPC's own log."""

import logging
from pathlib import Path

import grpc.aio
import pytest
from grpc._cython import cygrpc

from serve.engine.engine import Engine
from serve.frontends.grpc import log_filter
from serve.frontends.grpc.health import Health
from serve.frontends.grpc.server import GrpcServer
from serve.settings import ServerSettings


def test_only_disconnects_are_replaced(caplog: pytest.LogCaptureFixture) -> None:
    """A failing handler is logged with its traceback, and a disconnected client in one line."""
    log_filter.install()
    log_filter.install()
    grpc_log = logging.getLogger(log_filter.LOGGER)
    errors = [KeyError("x"), grpc.aio.InternalError("x"), cygrpc.ExecuteBatchError("x")]
    with caplog.at_level(logging.INFO, "serve"):
        for error in errors:
            grpc_log.error("raised by servicer method [/a/B]", exc_info=error)
    unchanged = ("ERROR", "raised by servicer method [/a/B]", True)
    assert [(record.levelname, record.getMessage(), bool(record.exc_info)) for record in caplog.records] == [
        unchanged,
        unchanged,
        ("INFO", "a client disconnected before its response was sent", False),
    ]


@pytest.mark.anyio
async def test_a_server_installs_it(tmp_path: Path) -> None:
    """A server installs the filter when it is created."""
    grpc_log = logging.getLogger(log_filter.LOGGER)
    grpc_log.removeFilter(log_filter.DISCONNECT_FILTER)
    health, settings = Health(), ServerSettings(models=tmp_path)
    await GrpcServer(Engine(settings, health.set_model), health, settings, "grpcio").stop()
    assert log_filter.DISCONNECT_FILTER in grpc_log.filters
