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
└── OutputFileError

Each leaf of RequestError has one gRPC status: see `STATUS` in `serve.frontends.grpc.server`.
"""

from typing import ClassVar


class ServeError(Exception):
    """Base class of this package's exceptions.

    Attributes:
        exit_status: exit status of a command that ends with the error: 2 for a mistake of the user, 1 for failed work.
    """

    exit_status: ClassVar[int] = 1


class SetupError(ServeError):
    """The server cannot start."""

    exit_status = 2


class SettingsError(SetupError):
    """A setting is invalid, or contradicts another one."""


class RepositoryError(SetupError):
    """The path of the model repository holds no model."""


class BadModelError(SetupError):
    """A model's files cannot be served; the message names the file or the model."""


class ProviderError(SetupError):
    """The requested execution provider cannot run the model on this machine."""


class PortInUseError(SetupError):
    """Another process listens on the port."""


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
    """The request cannot be served in the present state of the server or the model."""


class LoadFailedError(RequestError):
    """A model could not be loaded; the versions loaded before stay in service."""


class NotInRepositoryError(RequestError):
    """The repository holds no model of that name to load."""


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
    """The server reports that it does not have the model."""

    exit_status = 2


class NoSuchLayerError(ClientError):
    """No layer of the model matches the name, or none of the matching layers is in the model's file."""

    exit_status = 2


class RefusedError(ClientError):
    """The server rejected the request as invalid."""


class ServerFailedError(ClientError):
    """The server reported an internal error, or sent an inconsistent response."""


class UnsupportedModelError(ClientError):
    """The model's inputs, outputs or preprocessing do not suit the client's command."""

    exit_status = 2


class ImageError(ServeError):
    """A file cannot be decoded as an image."""

    exit_status = 2


class OutputFileError(ServeError):
    """A result file cannot be written."""

    exit_status = 2
