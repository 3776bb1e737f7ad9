"""The gRPC face of the core. Nothing else on the server's side knows gRPC."""

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
from serve.frontends.grpc.log_settings import LogSettings
from serve.frontends.grpc.settings import SettingsService
from serve.frontends.grpc.shared_memory import SharedMemoryService
from serve.frontends.grpc.streaming import ordered_responses
from serve.frontends.sockets import listening
from serve.settings import ServerSettings
from serve.shared_memory.regions import Regions

log = logging.getLogger(__name__)
LONGEST_MESSAGE = 1000  # characters
MOST_PENDING = 10**6  # gRPC itself drops requests beyond a thousand as CANCELLED, which no client tries again
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
    """A gRPC server on one port. `bind`, then `start`, then `stop`."""

    def __init__(self, core: ModelRegistry, control: ModelManager, health: Health, settings: ServerSettings) -> None:
        self._settings, self._health = settings, health
        options = [
            ("grpc.so_reuseport", 0),  # else a second server silently shares the port
            ("grpc.max_receive_message_length", settings.max_message_bytes),
            ("grpc.max_send_message_length", -1),
            ("grpc.server.max_pending_requests", MOST_PENDING),
            ("grpc.server.max_pending_requests_hard_limit", MOST_PENDING),
        ]
        log_filter.install()
        self._server = grpc.aio.server(options=options)
        regions = Regions()
        inference = InferenceService(core, control, regions)
        methods = {name: _unary(handle) for name, handle in inference.handlers().items()}
        streams = {name: _stream(handle) for name, handle in inference.stream_handlers().items()}
        others = (SharedMemoryService(regions), SettingsService(LogSettings()))
        rest = {name: _unary(handle) for each in others for name, handle in each.handlers().items()}
        layers = {name: _unary(handle) for name, handle in IntrospectionService(core).handlers().items()}
        services = {SERVICE: {**methods, **streams, **rest}, INTROSPECTION: layers}
        self._server.add_generic_rpc_handlers(tuple(_generic_handler(*each) for each in services.items()))
        health_pb2_grpc.add_HealthServicer_to_server(health.servicer, self._server)
        names = (*services, HEALTH, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, self._server, pool=_reflected())

    def bind(self) -> int:
        """Take the port, and return its number.

        Raises:
            PortInUseError: somebody else listens there.
            SettingsError: this machine does not have that address.
        """
        host, port = self._settings.host, self._settings.grpc_port
        listening(host, port).close()  # tried first: gRPC's own failure does not say what is wrong
        try:
            return self._server.add_insecure_port(f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
        except RuntimeError as error:
            raise PortInUseError(f"cannot listen on {host}:{port}: {error}") from error

    async def start(self) -> None:
        """Answer requests from now on."""
        await self._health.set_service(SERVICE)
        await self._server.start()

    async def stop(self) -> None:
        """Refuse new requests, and wait for those begun, `stop_grace_s` at most."""
        await self._health.stop()
        await self._server.stop(self._settings.stop_grace_s)


def _generic_handler(service: str, makers: Mapping[str, MethodMaker]) -> grpc.GenericRpcHandler:
    methods = {method.name: makers.get(method.name, _refusing)(method) for method in loader.service(service)}
    return grpc.method_handlers_generic_handler(service, methods)


def _reflected() -> DescriptorPool:
    """What reflection tells of: our files, and those of the services that gRPC's own packages bring."""
    pool = DescriptorPool()
    ours = [loader.file(name) for name in ("inference.proto", "manifest.proto", "introspect.proto")]
    for file in (*ours, health_pb2.DESCRIPTOR, reflection_pb2.DESCRIPTOR):
        pool.AddSerializedFile(file.serialized_pb)
    return pool


def _unary(handle: Handler) -> MethodMaker:
    """The edge: bytes to message, our errors to a status, everything else to a neutral sentence."""

    def make(method: loader.Method) -> MethodHandler:
        async def respond(data: bytes, context: Context) -> bytes | None:
            try:
                return (await handle(method.request.FromString(data))).SerializeToString()
            except Exception as error:  # noqa: BLE001  the table below knows them all
                return await context.abort(*_failure(error, method))

        return grpc.unary_unary_rpc_method_handler(respond)

    return make


def _stream(handle: Handler) -> MethodMaker:
    """The same for a stream of requests, whose failures are answers."""

    def make(method: loader.Method) -> MethodHandler:
        async def answer(data: bytes) -> bytes:
            request = None
            try:
                request = method.request.FromString(data)
                return (await handle(request)).SerializeToString()
            except Exception as error:  # noqa: BLE001  as above
                _, words = _failure(error, method)
                return stream_failure(getattr(request, "id", ""), words).SerializeToString()

        async def respond(requests: AsyncIterator[bytes], _: Context) -> AsyncIterator[bytes]:
            async with aclosing(ordered_responses(requests, answer)) as answers:
                async for each in answers:
                    yield each

        return grpc.stream_stream_rpc_method_handler(respond)

    return make


def _refusing(method: loader.Method) -> MethodHandler:
    async def respond(_: Any, context: Context) -> None:
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, f"this server does not offer {method.name}.")

    return grpc.unary_unary_rpc_method_handler(respond)


def _failure(error: Exception, method: loader.Method) -> tuple[grpc.StatusCode, str]:
    if isinstance(error, RequestError):
        return STATUS[type(error)], _short(str(error))
    if isinstance(error, DecodeError):
        return grpc.StatusCode.INTERNAL, f"the bytes are not a {method.request.DESCRIPTOR.name}."
    log.error("%s failed", method.path, exc_info=error)
    return grpc.StatusCode.INTERNAL, "the server failed at this request; its log says why."


def _short(words: str) -> str:
    """Cut what quotes a request at length: a status travels in a header, and headers are small."""
    half = LONGEST_MESSAGE // 2
    return words if len(words) <= LONGEST_MESSAGE else f"{words[:half]} ... {words[-half:]}"
