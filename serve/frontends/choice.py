"""Chooses the gRPC frontend: pygrpc-native, which is fast, or grpcio, which bounds messages and has every feature."""

import importlib.util
import logging
from ipaddress import ip_address
from typing import Literal

from serve.errors import SettingsError
from serve.settings import ServerSettings

log = logging.getLogger(__name__)
Frontend = Literal["native", "grpcio"]
INSTALL = "pip install 'zoonnx[native]'"


def choose_frontend(settings: ServerSettings) -> Frontend:
    """Return the frontend that the settings ask for; `auto` is native where that is installed and safe.

    pygrpc-native receives a message of any size before it can be rejected, so a client could exhaust the memory. That
    is acceptable for clients on this machine, and behind a proxy that bounds messages.

    Raises:
        SettingsError: The settings ask for native, which is not installed.
    """
    is_installed = importlib.util.find_spec("pygrpc_native") is not None
    if settings.grpc_frontend == "grpcio":
        return "grpcio"
    if settings.grpc_frontend == "native":
        if not is_installed:
            raise SettingsError(f"the native gRPC frontend is not installed; run: {INSTALL}")
        if not _is_local(settings.host):
            log.warning("the native gRPC frontend does not bound messages: put it behind a proxy that does")
        return "native"
    return "native" if is_installed and _is_local(settings.host) else "grpcio"


def _is_local(host: str) -> bool:
    """Return whether only processes of this machine can connect to `host`."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
