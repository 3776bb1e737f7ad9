"""Life cycle of a server process: bind, load, serve, drain."""

import asyncio
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from serve.engine.engine import Engine
from serve.engine.model import Model
from serve.engine.model_registry import ModelRegistry
from serve.frontends.grpc.health import Health
from serve.frontends.grpc_frontend import GrpcFrontend
from serve.settings import ServerSettings

log = logging.getLogger(__name__)
CLOSE_TIMEOUT_S = 1.0


def run(settings: ServerSettings, announce: Callable[[str], None]) -> None:
    """Serve until SIGINT or SIGTERM.

    `announce` is called with one line when the gRPC port accepts requests, and with another one for the HTTP port.

    Raises:
        SetupError: The server cannot start; the subclass names the cause.
    """
    if not asyncio.run(_serve(settings, announce)):
        logging.shutdown()
        sys.stdout.flush()
        os._exit(0)  # a thread still inside onnxruntime would abort the interpreter's normal shutdown


async def _serve(settings: ServerSettings, announce: Callable[[str], None]) -> bool:
    """Serve until a signal arrives; return whether all model threads have ended."""
    stop, health = _stop_event(), Health()
    engine = Engine(settings, health.set_model)
    server = GrpcFrontend(engine, health, settings)
    port = server.bind()
    async with _http_server(engine.registry, settings) as http_port:
        await asyncio.to_thread(engine.manager.start)
        await server.start()
        announce(
            f"ready: {_model_count(engine.registry.models(), engine.manager.failed)} on grpc {settings.host}:{port}"
        )
        if http_port is not None:
            announce(f"metrics: http://{settings.host}:{http_port}/metrics")
        await stop.wait()
        log.info("finishing in-flight requests; signal again to exit now")
        engine.registry.stop()
        await server.stop()
    is_closed = await asyncio.to_thread(engine.close, CLOSE_TIMEOUT_S)
    log.info("stopped" if is_closed else "a model is still running for abandoned requests: exiting without it")
    return is_closed


@asynccontextmanager
async def _http_server(registry: ModelRegistry, settings: ServerSettings) -> AsyncIterator[int | None]:
    """Run the HTTP server, also while models load; yield its port, or None if HTTP is disabled."""
    if settings.http_port is None:
        yield None
        return
    from serve.frontends.http.server import HttpServer

    server = HttpServer(registry, settings.host, settings.http_port)
    port = server.bind()
    await server.start()
    try:
        yield port
    finally:
        await server.stop()


def _stop_event() -> asyncio.Event:
    """Return an event that the first SIGINT or SIGTERM sets; a second signal has its default effect."""
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    signals = (signal.SIGINT, signal.SIGTERM)

    def on_first_signal() -> None:
        stop.set()
        for number in signals:
            loop.remove_signal_handler(number)

    for number in signals:
        loop.add_signal_handler(number, on_first_signal)
    return stop


def _model_count(models: list[Model], failed: int) -> str:
    """Return '1 model' or '2 models', or '2 of 3 models' if some could not be loaded."""
    count = len({model.name for model in models})
    if failed:
        return f"{count} of {count + failed} models"
    return f"{count} model" if count == 1 else f"{count} models"
