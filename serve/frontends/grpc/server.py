"""gRPC server on grpc.aio: translates between gRPC calls and the handlers of the services."""

import logging
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import aclosing
from typing import Any, TypeAlias

import grpc
import grpc.aio
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError
from grpc_health.v1 import health_pb2, health_pb2_grpc  # type: ignore[import-untyped]
from grpc_reflection.v1alpha import reflection, reflection_pb2  # type: ignore[import-untyped]

from protos import loader
from serve.engine.model_manager import ModelManager
from serve.engine.model_registry import ModelRegistry
from serve.errors import (
    InferenceError,
    InvalidRequestError,
    LoadFailedError,
    NoSharedMemoryError,
    NotInRepositoryError,
    OutputTooLargeError,
    PortInUseError,
    RegionExistsError,
    RequestError,
    UnavailableError,
    UnknownModelError,
    UnknownOutputError,
    UnknownRegionError,
    UnsupportedError,
)
from serve.frontends.grpc import log_filter
from serve.frontends.grpc.health import Health
from serve.frontends.grpc.inference import Handler, InferenceService, IntrospectionService, stream_failure
from serve.frontends.grpc.log_settings import LogFilter
from serve.frontends.grpc.settings import SettingsService
from serve.frontends.grpc.shared_memory import SharedMemoryService
from serve.frontends.grpc.streaming import ordered_responses
from serve.frontends.sockets import listening_socket
from serve.settings import ServerSettings
from serve.shared_memory.regions import Regions

log = logging.getLogger(__name__)
MAX_DETAILS_LENGTH = 1000  # characters of a status message
MAX_PENDING_REQUESTS = 10**6  # by default gRPC drops requests beyond 1000 as CANCELLED, which no client retries
SERVICE = "inference.GRPCInferenceService"
HEALTH = "grpc.health.v1.Health"
INTROSPECTION = "zoonnx.v1.Introspection"
STATUS: Mapping[type[RequestError], grpc.StatusCode] = {
    InferenceError: grpc.StatusCode.INTERNAL,
    InvalidRequestError: grpc.StatusCode.INVALID_ARGUMENT,
    LoadFailedError: grpc.StatusCode.INVALID_ARGUMENT,
    NotInRepositoryError: grpc.StatusCode.INTERNAL,
    NoSharedMemoryError: grpc.StatusCode.INTERNAL,
    OutputTooLargeError: grpc.StatusCode.INTERNAL,
    RegionExistsError: grpc.StatusCode.ALREADY_EXISTS,
    UnavailableError: grpc.StatusCode.UNAVAILABLE,
    UnknownModelError: grpc.StatusCode.NOT_FOUND,
    UnknownOutputError: grpc.StatusCode.INVALID_ARGUMENT,
    UnknownRegionError: grpc.StatusCode.NOT_FOUND,
    UnsupportedError: grpc.StatusCode.UNIMPLEMENTED,
}
Context = grpc.aio.ServicerContext[bytes, bytes]
MethodHandler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
MethodMaker = Callable[[loader.Method], MethodHandler]


class GrpcServer:
    """A gRPC server on one port. Call `bind`, then `start`, then `stop`.

    Raises:
        ValueError: A handler's name is not an RPC of its service.
    """

    def __init__(
        self, registry: ModelRegistry, manager: ModelManager, health: Health, settings: ServerSettings
    ) -> None:
        self._settings, self._health = settings, health
        options = [
            ("grpc.so_reuseport", 0),  # otherwise a second server silently shares the port
            ("grpc.max_receive_message_length", settings.max_message_bytes),
            ("grpc.max_send_message_length", -1),
            ("grpc.server.max_pending_requests", MAX_PENDING_REQUESTS),
            ("grpc.server.max_pending_requests_hard_limit", MAX_PENDING_REQUESTS),
        ]
        services = _services(registry, manager, settings.max_message_bytes)
        log_filter.install()
        self._server = grpc.aio.server(options=options)
        self._server.add_generic_rpc_handlers(tuple(services.values()))
        health_pb2_grpc.add_HealthServicer_to_server(health.servicer, self._server)
        names = (*services, HEALTH, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, self._server, pool=_reflection_pool())

    def bind(self) -> int:
        """Bind the port, and return its number.

        Raises:
            PortInUseError: Another process listens on the port.
            SettingsError: This machine does not have the address.
        """
        host, port = self._settings.host, self._settings.grpc_port
        listening_socket(host, port).close()  # tried first, because gRPC's own error does not name the cause
        try:
            return self._server.add_insecure_port(f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
        except RuntimeError as error:
            raise PortInUseError(f"cannot listen on {host}:{port}: {error}") from error

    async def start(self) -> None:
        """Accept requests from now on."""
        await self._health.set_service(SERVICE)
        await self._server.start()

    async def stop(self) -> None:
        """Reject new requests, and wait for those in flight, at most `stop_grace_s`."""
        await self._health.stop()
        await self._server.stop(self._settings.stop_grace_s)


def _services(
    registry: ModelRegistry, manager: ModelManager, max_message_bytes: int
) -> Mapping[str, grpc.GenericRpcHandler]:
    """Return the handlers of our own services by service name."""
    regions = Regions()
    inference = InferenceService(registry, manager, regions, max_message_bytes)
    introspection = IntrospectionService(registry)
    unary = {
        **inference.handlers(),
        **SharedMemoryService(regions).handlers(),
        **SettingsService(LogFilter()).handlers(),
    }
    makers = {name: _unary(handler) for name, handler in unary.items()}
    makers |= {name: _stream(handler) for name, handler in inference.stream_handlers().items()}
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
            except Exception as error:  # noqa: BLE001  _status translates all of them
                return await context.abort(*_status(error, method))

        return grpc.unary_unary_rpc_method_handler(respond)

    return make


def _stream(handler: Handler) -> MethodMaker:
    """Return a maker of bidirectional streams, which report exceptions in responses."""

    def make(method: loader.Method) -> MethodHandler:
        async def respond_one(data: bytes) -> bytes:
            request = None
            try:
                request = method.request.FromString(data)
                return (await handler(request)).SerializeToString()
            except Exception as error:  # noqa: BLE001  as above
                _, details = _status(error, method)
                return stream_failure(getattr(request, "id", ""), details).SerializeToString()

        async def respond(requests: AsyncIterator[bytes], _: Context) -> AsyncIterator[bytes]:
            async with aclosing(ordered_responses(requests, respond_one)) as responses:
                async for response in responses:
                    yield response

        return grpc.stream_stream_rpc_method_handler(respond)

    return make


def _unimplemented(method: loader.Method) -> MethodHandler:
    async def respond(_: Any, context: Context) -> None:
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, f"this server does not implement {method.name}.")

    return grpc.unary_unary_rpc_method_handler(respond)


def _status(error: Exception, method: loader.Method) -> tuple[grpc.StatusCode, str]:
    """Return status and details of a failed call; the details of an unexpected error are only logged."""
    if isinstance(error, RequestError):
        return STATUS[type(error)], _shorten(str(error))
    if isinstance(error, DecodeError):
        return grpc.StatusCode.INTERNAL, f"the bytes are not a {method.request.DESCRIPTOR.name}."
    log.error("%s failed", method.path, exc_info=error)
    return grpc.StatusCode.INTERNAL, "the server failed on this request; see the server's log."


def _shorten(details: str) -> str:
    """Remove the middle of a long text: status details are sent in a header, whose size is limited."""
    half = MAX_DETAILS_LENGTH // 2
    return details if len(details) <= MAX_DETAILS_LENGTH else f"{details[:half]} ... {details[-half:]}"
