"""The gRPC methods, channel options and errors that both clients share."""

import json
from collections.abc import Mapping
from typing import Any

import grpc

from protos import loader
from serve.errors import (
    ClientError,
    NoSuchModelError,
    RefusedError,
    ServerFailedError,
    SettingsError,
    TimedOutError,
    UnreachableError,
)

SERVICES = ("inference.GRPCInferenceService", "zoonnx.v1.Introspection")
METHODS = {method.name: method for service in SERVICES for method in loader.service(service)}
CHANNEL_OPTIONS = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
)
MAX_RETRIES = 4
ERROR_BY_STATUS: Mapping[grpc.StatusCode, type[ClientError]] = {
    grpc.StatusCode.UNAVAILABLE: UnreachableError,
    grpc.StatusCode.DEADLINE_EXCEEDED: TimedOutError,
    grpc.StatusCode.NOT_FOUND: NoSuchModelError,
    grpc.StatusCode.INVALID_ARGUMENT: RefusedError,
    grpc.StatusCode.ALREADY_EXISTS: RefusedError,
    grpc.StatusCode.RESOURCE_EXHAUSTED: RefusedError,
    grpc.StatusCode.UNIMPLEMENTED: RefusedError,
}
CONNECTION_FAILURES = ("connect", "socket", "resolve", "resolution", "unreachable")  # parts of gRPC's own messages


def checked_address(url: str) -> str:
    """Return `url` unchanged if gRPC accepts it as HOST:PORT. Raises: SettingsError."""
    scheme, _, rest = url.partition("://")
    if scheme in ("http", "https", "grpc", "grpcs"):
        raise SettingsError(f"the address '{url}' begins with {scheme}://: pass only HOST:PORT, {rest.rstrip('/')}.")
    return url


def channel_options(retries: int) -> tuple[tuple[str, Any], ...]:
    """Return channel options that let gRPC itself retry a call up to `retries` times while it is UNAVAILABLE.

    Raises:
        SettingsError: `retries` is out of range.
    """
    if not 0 <= retries <= MAX_RETRIES:
        raise SettingsError(f"retries must be between 0 and {MAX_RETRIES}, the most that gRPC allows; got {retries}.")
    if not retries:
        return (*CHANNEL_OPTIONS, ("grpc.enable_retries", 0))
    policy = {
        "maxAttempts": retries + 1,
        "initialBackoff": "0.1s",
        "maxBackoff": "2s",
        "backoffMultiplier": 2,
        "retryableStatusCodes": ["UNAVAILABLE"],
    }
    config = {"methodConfig": [{"name": [{}], "retryPolicy": policy}]}
    return (*CHANNEL_OPTIONS, ("grpc.service_config", json.dumps(config)))


def client_error(error: Any, url: str, timeout_s: float) -> ClientError:
    """Return the ClientError that corresponds to a grpc.RpcError."""
    code: grpc.StatusCode = error.code()
    details = str(error.details())
    error_type = ERROR_BY_STATUS.get(code, ServerFailedError)
    if error_type is TimedOutError:
        return TimedOutError(f"{url} did not respond within {timeout_s:g} s.")
    if error_type is UnreachableError and any(part in details.lower() for part in CONNECTION_FAILURES):
        # gRPC reports UNAVAILABLE both for an unreachable server and for one that cannot serve at the moment
        return UnreachableError(f"cannot reach a server at {url}: {details}")
    return error_type(f"{url} returned {code.name}: {details}")
