"""What gRPC itself logs."""

import asyncio
import logging
from pathlib import Path

import grpc.aio
import pytest
from grpc._cython import cygrpc

from serve.engine.model_manager import ModelManager
from serve.engine.model_registry import ModelRegistry
from serve.frontends.grpc import log_filter
from serve.frontends.grpc.health import Health
from serve.frontends.grpc.server import GrpcServer
from serve.settings import ServerSettings


def test_only_what_is_no_fault_gets_other_words(caplog: pytest.LogCaptureFixture) -> None:
    """A handler that fails is told with its traceback; a client that left, by gRPC's own exception, in one line."""
    log_filter.install()
    log_filter.install()
    theirs = logging.getLogger(log_filter.LOGGER)
    faults = [KeyError("x"), grpc.aio.InternalError("x"), cygrpc.ExecuteBatchError("x")]
    with caplog.at_level(logging.INFO, "serve"):
        for fault in faults:
            theirs.error("raised by servicer method [/a/B]", exc_info=fault)
    told = ("ERROR", "raised by servicer method [/a/B]", True)
    assert [(record.levelname, record.getMessage(), bool(record.exc_info)) for record in caplog.records] == [
        told,
        told,
        ("INFO", "a client left before its answer was sent", False),
    ]


def test_a_server_installs_it(tmp_path: Path) -> None:
    """From its making on."""
    theirs = logging.getLogger(log_filter.LOGGER)
    theirs.removeFilter(log_filter.LEAVING)

    async def make() -> None:
        core, health, settings = ModelRegistry(), Health(), ServerSettings(models=tmp_path)
        await GrpcServer(core, ModelManager(core, settings, health.set_model), health, settings).stop()

    asyncio.run(make())
    assert log_filter.LEAVING in theirs.filters
