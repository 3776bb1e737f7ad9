"""Health of the server, its services and its models, reported by `grpc.health.v1`."""

from grpc_health.v1 import health, health_pb2  # type: ignore[import-untyped]

SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


class Health:
    """Health states by service name; a model's service has the model's name."""

    def __init__(self) -> None:
        self.servicer = health.aio.HealthServicer()

    async def set_service(self, name: str) -> None:
        """Report a gRPC service as SERVING."""
        await self.servicer.set(name, SERVING)

    async def set_model(self, name: str, ready: bool) -> None:
        """Report whether a model is served."""
        await self.servicer.set(name, SERVING if ready else NOT_SERVING)

    async def stop(self) -> None:
        """Report everything as NOT_SERVING from now on."""
        await self.servicer.enter_graceful_shutdown()
