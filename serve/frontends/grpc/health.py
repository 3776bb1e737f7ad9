"""`grpc.health.v1`: the server, its services and each model, for those who ask and for those who watch."""

from grpc_health.v1 import health, health_pb2  # type: ignore[import-untyped]

SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


class Health:
    """A model's service is called by the model's name."""

    def __init__(self) -> None:
        self.servicer = health.aio.HealthServicer()

    async def set_service(self, name: str) -> None:
        """Say that a service is there."""
        await self.servicer.set(name, SERVING)

    async def set_model(self, name: str, ready: bool) -> None:
        """Say whether a model answers."""
        await self.servicer.set(name, SERVING if ready else NOT_SERVING)

    async def stop(self) -> None:
        """Say that nothing is served any more."""
        await self.servicer.enter_graceful_shutdown()
