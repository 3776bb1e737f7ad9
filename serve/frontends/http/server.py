"""HTTP server for metrics and health, on starlette and uvicorn."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn
from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from serve.engine.model_registry import ModelRegistry
from serve.frontends.http.metrics import Metrics
from serve.frontends.sockets import listening_socket


class HttpServer:
    """An HTTP server on one port, in the running event loop. Call `bind`, then `start`, then `stop`."""

    def __init__(self, registry: ModelRegistry, host: str, port: int) -> None:
        self._registry, self._host, self._port = registry, host, port
        self._metrics = Metrics(registry)
        routes = [
            Route("/metrics", self._get_metrics),
            Route("/v2/health/live", self._live),
            Route("/v2/health/ready", self._ready),
        ]
        config = uvicorn.Config(Starlette(routes=routes), lifespan="off", log_config=None, log_level="warning")
        self._server = _WithoutSignals(config)
        self._serving: asyncio.Task[None] | None = None

    def bind(self) -> int:
        """Bind the port, and return its number. Raises: PortInUseError, SettingsError."""
        self._socket = listening_socket(self._host, self._port)
        return int(self._socket.getsockname()[1])

    async def start(self) -> None:
        """Accept requests from now on."""
        self._serving = asyncio.create_task(self._server.serve(sockets=[self._socket]))

    async def stop(self) -> None:
        """Finish all in-flight requests, then close the port."""
        self._server.should_exit = True
        if self._serving:
            await self._serving
        self._socket.close()

    async def _get_metrics(self, _: Request) -> Response:
        return Response(self._metrics.text(), media_type=CONTENT_TYPE_PLAIN_0_0_4)

    async def _live(self, _: Request) -> Response:
        return Response(status_code=200)

    async def _ready(self, _: Request) -> Response:
        return Response(status_code=200 if self._registry.ready else 400)


class _WithoutSignals(uvicorn.Server):
    """Leaves signal handling to `serve.app`, which stops both servers."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield
