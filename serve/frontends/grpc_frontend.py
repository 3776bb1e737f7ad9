"""The gRPC port: a grpcio server, or pygrpc-native with a grpcio server behind it."""

import asyncio
import logging
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from serve.engine.engine import Engine
from serve.errors import PortInUseError
from serve.frontends.choice import choose_frontend
from serve.frontends.grpc.health import Health
from serve.frontends.grpc.server import GrpcServer
from serve.frontends.sockets import listening_socket
from serve.settings import ServerSettings

if TYPE_CHECKING:
    from serve.frontends.native.server import NativeServer

log = logging.getLogger(__name__)


class GrpcFrontend:
    """Everything behind the gRPC port. Call `bind`, then `start`, then `stop`, in the running event loop."""

    def __init__(self, engine: Engine, health: Health, settings: ServerSettings) -> None:
        self._settings = settings
        choice = choose_frontend(settings)
        self._grpcio = GrpcServer(engine, health, settings, choice)
        self._native: NativeServer | None = None
        self._folder = ""
        if choice == "native":
            from serve.frontends.native import server  # needs the extra `native`

            self._native = server.NativeServer(engine.receiver, settings.max_message_bytes)

    def bind(self) -> int:
        """Bind the port, and return its number. Raises: PortInUseError, SettingsError."""
        host, port = self._settings.host, self._settings.grpc_port
        listening_socket(host, port).close()  # tried first, because the servers' own errors do not name the cause
        target = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        try:
            return self._bind(target)
        except (RuntimeError, OSError) as error:
            raise PortInUseError(f"cannot listen on {host}:{port}: {error}") from error

    def _bind(self, target: str) -> int:
        if self._native is None:
            return self._grpcio.bind(target)
        self._folder = tempfile.mkdtemp(prefix="zoonnx-")  # only its owner can enter it
        socket = Path(self._folder, "grpcio.sock")
        self._grpcio.bind(f"unix:{socket}")
        return self._native.bind(target, str(socket))

    async def start(self) -> None:
        """Accept requests from now on."""
        await self._grpcio.start()
        if self._native:
            self._native.start()
        log.info("the gRPC frontend is %s", "native" if self._native else "grpcio")

    async def stop(self) -> None:
        """Reject new requests, and wait for those in flight, at most `stop_grace_s`."""
        stopping = [self._grpcio.stop()]
        if self._native:
            stopping.append(asyncio.to_thread(self._native.stop, self._settings.stop_grace_s))
        await asyncio.gather(*stopping)
        if self._folder:
            shutil.rmtree(self._folder, ignore_errors=True)
