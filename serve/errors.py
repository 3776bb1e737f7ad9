"""What can go wrong between a model on disk and an answer.

ServeError
├── SetupError                  the server cannot start as asked
│   ├── SettingsError           a setting is out of its range
│   ├── RepositoryError         there is nothing to serve at that place
│   ├── BadModelError           a model cannot be served; names the file
│   ├── ProviderError           the wanted device cannot run the model
│   └── PortInUseError          somebody else listens there
├── RequestError                one request cannot be answered; each leaf has a status of its own
│   ├── UnknownModelError       no such model or version
│   ├── UnknownRegionError      no such shared-memory region
│   ├── RegionExistsError       a shared-memory region of that name is there already
│   ├── NoSharedMemoryError     the operating system has no such shared memory
│   ├── OutputTooLargeError     an output does not fit into its place in shared memory
│   ├── InvalidRequestError     the request contradicts itself or the model
│   ├── UnknownOutputError      the model has no such output
│   ├── UnavailableError        not now: the server is stopping
│   ├── LoadFailedError         the wanted model cannot be loaded; what ran before runs on
│   ├── NotInRepositoryError    there is no model of that name to load
│   ├── UnsupportedError        this server cannot do that
│   └── InferenceError          the model failed on this input
├── ClientError                 a server did not give the answer
│   ├── UnreachableError        no server there, or it is stopping
│   ├── TimedOutError           no answer in time
│   ├── NoSuchModelError        the server does not have the model
│   ├── NoSuchLayerError        the model has no layer of that name
│   ├── RefusedError            the server refused the request
│   ├── ServerFailedError       the server failed at it
│   └── UnsupportedModelError         the model does not take images the way `infer` sends them
├── ImageError                  a file is not an image
└── OutputFileError             a result cannot be written

`exit_status` is the process's exit status when a command ends with the error: 2 the user's mistake, 1 the work failed.
"""

from typing import ClassVar


class ServeError(Exception):
    """Any error of this package."""

    exit_status: ClassVar[int] = 1


class SetupError(ServeError):
    """The server cannot start as asked."""

    exit_status = 2


class SettingsError(SetupError):
    """A setting is out of its range."""


class RepositoryError(SetupError):
    """There is nothing to serve at that place."""


class BadModelError(SetupError):
    """A model cannot be served."""


class ProviderError(SetupError):
    """The wanted device cannot run the model."""


class PortInUseError(SetupError):
    """Somebody else listens on the port."""


class RequestError(ServeError):
    """One request cannot be answered."""


class UnknownModelError(RequestError):
    """No such model or version."""


class UnknownRegionError(RequestError):
    """No such shared-memory region."""


class RegionExistsError(RequestError):
    """A shared-memory region of that name is there already."""


class NoSharedMemoryError(RequestError):
    """The operating system has no such shared memory."""


class OutputTooLargeError(RequestError):
    """An output does not fit into its place in shared memory."""


class InvalidRequestError(RequestError):
    """The request contradicts itself or the model."""


class UnknownOutputError(RequestError):
    """The model has no such output."""


class UnavailableError(RequestError):
    """Not now: the server is stopping."""


class LoadFailedError(RequestError):
    """The wanted model cannot be loaded; what ran before runs on."""


class NotInRepositoryError(RequestError):
    """There is no model of that name to load."""


class UnsupportedError(RequestError):
    """The server cannot do that."""


class InferenceError(RequestError):
    """The model failed on this input."""


class ClientError(ServeError):
    """A server did not give the answer."""


class UnreachableError(ClientError):
    """No server there, or it is stopping."""


class TimedOutError(ClientError):
    """No answer in time."""


class NoSuchModelError(ClientError):
    """The server does not have the model."""

    exit_status = 2


class NoSuchLayerError(ClientError):
    """The model has no layer of that name."""

    exit_status = 2


class RefusedError(ClientError):
    """The server refused the request."""


class ServerFailedError(ClientError):
    """The server failed at the request."""


class UnsupportedModelError(ClientError):
    """The model does not take images the way `infer` sends them."""

    exit_status = 2


class ImageError(ServeError):
    """A file is not an image."""

    exit_status = 2


class OutputFileError(ServeError):
    """A result cannot be written."""

    exit_status = 2
