"""gRPC status of each error."""

import logging
from collections.abc import Mapping

import grpc
from google.protobuf.message import DecodeError

from serve.errors import (
    InferenceError,
    InvalidRequestError,
    LoadFailedError,
    NoSharedMemoryError,
    NotInRepositoryError,
    OutputTooLargeError,
    RegionExistsError,
    RequestError,
    UnavailableError,
    UnknownModelError,
    UnknownOutputError,
    UnknownRegionError,
    UnsupportedError,
)

log = logging.getLogger(__name__)
MAX_DETAILS_LENGTH = 1000  # characters of a status message
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


def status(error: Exception, path: str, message: str) -> tuple[grpc.StatusCode, str]:
    """Return status and details of a failed call; the details of an unexpected error are only logged.

    Args:
        error: Why it failed.
        path: The path of the RPC.
        message: The name of its request message.
    """
    if isinstance(error, RequestError):
        return STATUS[type(error)], _shorten(str(error))
    if isinstance(error, DecodeError):
        return grpc.StatusCode.INTERNAL, f"the bytes are not a {message}."
    log.error("%s failed", path, exc_info=error)
    return grpc.StatusCode.INTERNAL, "the server failed on this request; see the server's log."


def _shorten(details: str) -> str:
    """Remove the middle of a long text: status details are sent in a header, whose size is limited."""
    half = MAX_DETAILS_LENGTH // 2
    return details if len(details) <= MAX_DETAILS_LENGTH else f"{details[:half]} ... {details[-half:]}"
