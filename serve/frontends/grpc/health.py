"""Health of the server, its services and its models, reported by `grpc.health.v1`."""

import asyncio

from grpc_health.v1 import health, health_pb2  # type: ignore[import-untyped]

SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


class Health:
    """Health states by service name; a model's service has the model's name. Create it in the running event loop."""

    def __init__(self) -> None:
        self.servicer = health.aio.HealthServicer()
        self._loop = asyncio.get_running_loop()

    async def set_service(self, name: str) -> None:
        """Report a gRPC service as SERVING."""
        await self.servicer.set(name, SERVING)

    def set_model(self, name: str, ready: bool) -> None:
        """Report whether a model is served; in another thread than the event loop's."""
        state = SERVING if ready else NOT_SERVING
        asyncio.run_coroutine_threadsafe(self.servicer.set(name, state), self._loop).result()

    async def stop(self) -> None:
        """Report everything as NOT_SERVING from now on."""
        await self.servicer.enter_graceful_shutdown()
