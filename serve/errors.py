"""Exceptions of the server and of its clients.

ServeError
├── SetupError
│   ├── SettingsError
│   ├── RepositoryError
│   ├── BadModelError
│   ├── ProviderError
│   └── PortInUseError
├── RequestError
│   ├── UnknownModelError
│   ├── UnknownRegionError
│   ├── RegionExistsError
│   ├── NoSharedMemoryError
│   ├── OutputTooLargeError
│   ├── InvalidRequestError
│   ├── UnknownOutputError
│   ├── UnavailableError
│   ├── LoadFailedError
│   ├── NotInRepositoryError
│   ├── UnsupportedError
│   └── InferenceError
├── ClientError
│   ├── UnreachableError
│   ├── TimedOutError
│   ├── NoSuchModelError
│   ├── NoSuchLayerError
│   ├── RefusedError
│   ├── ServerFailedError
│   └── UnsupportedModelError
├── ImageError
├── ArrayFileError
└── OutputFileError

Each leaf of RequestError has one gRPC status: see `STATUS` in `serve.frontends.grpc.server`.
"""

from typing import ClassVar


class ServeError(Exception):
    """Base class of this package's exceptions.

    Attributes:
        exit_status: Exit status of a command that ends with the error: 2 for a mistake of the user, 1 for failed work.
    """

    exit_status: ClassVar[int] = 1


class SetupError(ServeError):
    """The server cannot start."""

    exit_status = 2


class SettingsError(SetupError):
    """A setting is invalid, or contradicts another one."""


class RepositoryError(SetupError):
    """The path of the model repository contains no model."""


class BadModelError(SetupError):
    """A model cannot be served; the message names the file or the model."""


class ProviderError(SetupError):
    """The requested execution provider cannot run the model on this machine."""


class PortInUseError(SetupError):
    """The port cannot be bound, because another process listens on it."""


class RequestError(ServeError):
    """The server cannot fulfil a request."""


class UnknownModelError(RequestError):
    """The server has no such model or version."""


class UnknownRegionError(RequestError):
    """No shared-memory region is registered under that name."""


class RegionExistsError(RequestError):
    """A shared-memory region of that name is already registered."""


class NoSharedMemoryError(RequestError):
    """The operating system or the GPU driver cannot open the shared memory."""


class OutputTooLargeError(RequestError):
    """An output is larger than the shared memory reserved for it."""


class InvalidRequestError(RequestError):
    """The request is malformed, or does not match the model's signature."""


class UnknownOutputError(RequestError):
    """The model has no output or layer of that name."""


class UnavailableError(RequestError):
    """The server or the model cannot serve the request in its current state."""


class LoadFailedError(RequestError):
    """A model cannot be loaded; the versions loaded before stay in service."""


class NotInRepositoryError(RequestError):
    """The repository contains no model of that name to load."""


class UnsupportedError(RequestError):
    """The server does not implement the requested feature."""


class InferenceError(RequestError):
    """The runtime failed while it executed the model."""


class ClientError(ServeError):
    """A call to a server failed."""


class UnreachableError(ClientError):
    """No server is reachable at the address, or it is temporarily unavailable."""


class TimedOutError(ClientError):
    """The server did not respond before the deadline."""


class NoSuchModelError(ClientError):
    """The server does not have the model."""

    exit_status = 2


class NoSuchLayerError(ClientError):
    """No layer matches the name, or no matching layer is in the model's file."""

    exit_status = 2


class RefusedError(ClientError):
    """The server rejected the request as invalid."""


class ServerFailedError(ClientError):
    """The server reported an internal error, or sent an inconsistent response."""


class UnsupportedModelError(ClientError):
    """The client does not support the model's inputs, outputs or preprocessing."""

    exit_status = 2


class ImageError(ServeError):
    """A file cannot be decoded as an image."""

    exit_status = 2


class ArrayFileError(ServeError):
    """A file does not hold the arrays that a model accepts."""

    exit_status = 2


class OutputFileError(ServeError):
    """A result file cannot be written."""

    exit_status = 2
