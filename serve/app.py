"""A server's life: read, bind, load, answer, drain."""

import asyncio
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from serve.engine.model import Model
from serve.engine.model_manager import ModelManager
from serve.engine.model_registry import ModelRegistry
from serve.frontends.grpc.health import Health
from serve.frontends.grpc.server import GrpcServer
from serve.settings import ServerSettings

log = logging.getLogger(__name__)
CLOSE_S = 1.0


def run(settings: ServerSettings, announce: Callable[[str], None]) -> None:
    """Serve until SIGINT or SIGTERM; `announce` gets one line when requests are answered.

    Raises:
        SetupError: one of its leaves, by what keeps the server from starting.
    """
    if not asyncio.run(_run(settings, announce)):
        logging.shutdown()
        sys.stdout.flush()
        os._exit(0)  # a thread in onnxruntime would abort the interpreter's own way out


async def _run(settings: ServerSettings, announce: Callable[[str], None]) -> bool:
    """Serve, and return whether no thread of a model is left."""
    stop = _stop_event()
    core, health = ModelRegistry(), Health()
    control = ModelManager(core, settings, health.set_model)
    server = GrpcServer(core, control, health, settings)
    port = server.bind()
    async with _http(core, settings) as http_port:
        await control.start()
        await server.start()
        announce(f"ready: {_counted(core.models())} on grpc {settings.host}:{port}")
        if http_port is not None:
            announce(f"metrics: http://{settings.host}:{http_port}/metrics")
        await stop.wait()
        log.info("stopping: what has begun is answered first; a second signal ends the server at once")
        core.stop()
        await server.stop()
    await control.close()
    is_closed = await _close(core)
    log.info("stopped")
    return is_closed


async def _close(core: ModelRegistry) -> bool:
    """Let the models go; one that still computes for requests that were given up is not waited for."""
    try:
        async with asyncio.timeout(CLOSE_S):
            await core.close()
    except TimeoutError:
        log.warning("a model still computes for requests that were given up: the server ends without it")
        return False
    return True


@asynccontextmanager
async def _http(core: ModelRegistry, settings: ServerSettings) -> AsyncIterator[int | None]:
    """Answer HTTP, where it is wanted, also while models are loaded; gives the port."""
    if settings.http_port is None:
        yield None
        return
    from serve.frontends.http.server import HttpServer

    server = HttpServer(core, settings.host, settings.http_port)
    port = server.bind()
    await server.start()
    try:
        yield port
    finally:
        await server.stop()


def _stop_event() -> asyncio.Event:
    """An event that the first SIGINT or SIGTERM sets; a second one ends the process as usual."""
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    wanted = (signal.SIGINT, signal.SIGTERM)

    def first() -> None:
        stop.set()
        for each in wanted:
            loop.remove_signal_handler(each)

    for each in wanted:
        loop.add_signal_handler(each, first)
    return stop


def _counted(models: list[Model]) -> str:
    count = len({model.name for model in models})
    return f"{count} model" if count == 1 else f"{count} models"
