"""gRPC server on grpc.aio: translates between gRPC calls and the handlers of the services."""

import logging
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeAlias

import grpc
import grpc.aio
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2, health_pb2_grpc  # type: ignore[import-untyped]
from grpc_reflection.v1alpha import reflection, reflection_pb2  # type: ignore[import-untyped]

from protos import loader
from serve.engine.engine import Engine
from serve.frontends.choice import Frontend
from serve.frontends.grpc import log_filter
from serve.frontends.grpc.health import Health
from serve.frontends.grpc.inbox import Inbox
from serve.frontends.grpc.infer import infer_stream, infer_unary
from serve.frontends.grpc.inference import Handler, InferenceService, IntrospectionService
from serve.frontends.grpc.log_settings import LogFilter
from serve.frontends.grpc.settings import SettingsService
from serve.frontends.grpc.shared_memory import SharedMemoryService
from serve.frontends.status import status
from serve.settings import ServerSettings

log = logging.getLogger(__name__)
MAX_PENDING_REQUESTS = 10**6  # by default gRPC drops requests beyond 1000 as CANCELLED, which no client retries
SERVICE = "inference.GRPCInferenceService"
HEALTH = "grpc.health.v1.Health"
INTROSPECTION = "zoonnx.v1.Introspection"
Context = grpc.aio.ServicerContext[bytes, bytes]
MethodHandler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
MethodMaker = Callable[[loader.Method], MethodHandler]


class GrpcServer:
    """A gRPC server on one port. Call `bind`, then `start`, then `stop`.

    Raises:
        ValueError: A handler's name is not an RPC of its service.
    """

    def __init__(self, engine: Engine, health: Health, settings: ServerSettings, frontend: Frontend) -> None:
        self._settings, self._health = settings, health
        options = [
            ("grpc.so_reuseport", 0),  # otherwise a second server silently shares the port
            ("grpc.max_receive_message_length", settings.max_message_bytes),
            ("grpc.max_send_message_length", -1),
            ("grpc.server.max_pending_requests", MAX_PENDING_REQUESTS),
            ("grpc.server.max_pending_requests_hard_limit", MAX_PENDING_REQUESTS),
        ]
        services = _services(engine, frontend, settings.max_message_bytes)
        log_filter.install()
        self._server = grpc.aio.server(options=options)
        self._server.add_generic_rpc_handlers(tuple(services.values()))
        health_pb2_grpc.add_HealthServicer_to_server(health.servicer, self._server)
        names = (*services, HEALTH, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, self._server, pool=_reflection_pool())

    def bind(self, target: str) -> int:
        """Bind HOST:PORT or unix:PATH, and return the port's number. Raises: RuntimeError."""
        return self._server.add_insecure_port(target)

    async def start(self) -> None:
        """Accept requests from now on."""
        await self._health.set_service(SERVICE)
        await self._server.start()

    async def stop(self) -> None:
        """Reject new requests, and wait for those in flight, at most `stop_grace_s`."""
        await self._health.stop()
        await self._server.stop(self._settings.stop_grace_s)


def _services(engine: Engine, frontend: Frontend, max_message_bytes: int) -> Mapping[str, grpc.GenericRpcHandler]:
    """Return the handlers of our own services by service name."""
    inference = InferenceService(engine.registry, engine.manager, frontend, max_message_bytes)
    introspection = IntrospectionService(engine.registry)
    inbox = Inbox(engine.receiver)
    unary = {
        **inference.handlers(),
        **SharedMemoryService(engine.regions).handlers(),
        **SettingsService(LogFilter()).handlers(),
    }
    makers = {name: _unary(handler) for name, handler in unary.items()}
    makers["ModelInfer"] = partial(infer_unary, inbox)
    makers["ModelStreamInfer"] = partial(infer_stream, inbox)
    introspection_makers = {name: _unary(handler) for name, handler in introspection.handlers().items()}
    return {
        SERVICE: _generic_handler(SERVICE, makers),
        INTROSPECTION: _generic_handler(INTROSPECTION, introspection_makers),
    }


def _generic_handler(service: str, makers: Mapping[str, MethodMaker]) -> grpc.GenericRpcHandler:
    """Return the handler of a service, with `makers` by RPC name; its other RPCs fail with UNIMPLEMENTED."""
    methods = loader.service(service)
    unknown = sorted(makers.keys() - {method.name for method in methods})
    if unknown:
        raise ValueError(f"{service} has no RPC {', '.join(unknown)}: correct the name in the service's handlers().")
    handlers = {method.name: makers.get(method.name, _unimplemented)(method) for method in methods}
    return grpc.method_handlers_generic_handler(service, handlers)


def _reflection_pool() -> DescriptorPool:
    """Return the descriptors for reflection: our files, and those of grpcio's services."""
    pool = DescriptorPool()
    own_files = [loader.file(name) for name in ("inference.proto", "manifest.proto", "introspect.proto")]
    for file in (*own_files, health_pb2.DESCRIPTOR, reflection_pb2.DESCRIPTOR):
        pool.AddSerializedFile(file.serialized_pb)
    return pool


def _unary(handler: Handler) -> MethodMaker:
    """Return a maker of unary methods, which parse the request and translate exceptions to a status."""

    def make(method: loader.Method) -> MethodHandler:
        async def respond(data: bytes, context: Context) -> bytes | None:
            try:
                return (await handler(method.request.FromString(data))).SerializeToString()
            except Exception as error:  # noqa: BLE001  status translates all of them
                return await context.abort(*status(error, method.path, method.request.DESCRIPTOR.name))

        return grpc.unary_unary_rpc_method_handler(respond)

    return make


def _unimplemented(method: loader.Method) -> MethodHandler:
    async def respond(_: Any, context: Context) -> None:
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, f"this server does not implement {method.name}.")

    return grpc.unary_unary_rpc_method_handler(respond)
