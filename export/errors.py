"""Exceptions of the export package.

ExportError
├── SettingsError
├── SourceError
├── UnsupportedNetworkError
│   └── FailedRunError
├── ConversionError
├── ShapeError
├── ParityError
├── CalibrationDataError
├── VariantError
├── RepositoryError
│   ├── TargetError
│   └── RepositoryConflictError
├── CheckError
│   └── DamagedError
├── NoModelError
├── NewerSchemaError
├── DemoError
├── OccupiedFolderError
├── ExhaustedMemoryError
└── UnexpectedError
"""

import contextlib
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ClassVar

MAX_MESSAGE = 500  # characters of a foreign exception that are quoted


class ExportError(Exception):
    """Base class of this package's exceptions.

    Attributes:
        exit_status: Exit status of a command that ends with the error: 2 for a mistake of the user, 1 for failed work.
    """

    exit_status: ClassVar[int] = 2


class SettingsError(ExportError):
    """A setting is invalid, or contradicts another one."""


class SourceError(ExportError):
    """The network to export cannot be loaded, or its preprocessing is unknown."""


class UnsupportedNetworkError(ExportError):
    """The network cannot be exported as it is; the message names the obstacle."""


class FailedRunError(UnsupportedNetworkError):
    """PyTorch fails to run the network; the exception is chained."""


class ConversionError(ExportError):
    """torch.onnx cannot convert the network, or onnxruntime cannot run the converted model."""

    exit_status = 1


class ShapeError(ExportError):
    """Two independent sources report different shapes of one value."""

    exit_status = 1


class ParityError(ExportError):
    """Outputs of the ONNX model and of PyTorch differ by more than the tolerance."""

    exit_status = 1


class CalibrationDataError(ExportError):
    """There are no suitable images on which to calibrate and evaluate a variant."""


class VariantError(ExportError):
    """A variant cannot be built, or misses an acceptance bound."""

    exit_status = 1


class RepositoryError(ExportError):
    """A model cannot be written to the model repository."""


class TargetError(RepositoryError):
    """The operating system does not permit writing, or the disk is full."""

    exit_status = 1


class RepositoryConflictError(RepositoryError):
    """An existing model of this name has another configuration or other labels."""


class CheckError(ExportError):
    """A written model contradicts its manifest."""

    exit_status = 1


class DamagedError(CheckError):
    """A file of a written model cannot be read.

    Attributes:
        file: The file.
        reason: Why it cannot be read.
    """

    def __init__(self, file: Path, reason: str) -> None:
        super().__init__(f"{file}: {reason}")
        self.file, self.reason = file, reason


class NoModelError(ExportError):
    """The path contains no model."""


class NewerSchemaError(ExportError):
    """The manifest has a newer schema version than this zoonnx supports."""


class DemoError(ExportError):
    """A step of the demo failed."""

    exit_status = 1


class OccupiedFolderError(ExportError):
    """The demo's folder already exists and was not created by the demo."""


class ExhaustedMemoryError(ExportError):
    """The memory of the machine does not suffice."""

    exit_status = 1


class UnexpectedError(ExportError):
    """A library, user code or zoonnx itself failed in a way that no step expects; the cause is chained."""

    exit_status = 1
    is_unexpected: ClassVar[bool] = True  # the command line also keeps the traceback


@contextlib.contextmanager
def foreign_errors(step: Callable[[], str]) -> Iterator[None]:
    """Translate each exception of other packages into an ExportError; `step` returns what was being done."""
    try:
        yield
    except ExportError:
        raise
    except MemoryError as error:
        cause = str(error) or "an allocation failed"
        raise ExhaustedMemoryError(f"out of memory: {cause}, while {step()}. Use a smaller input.") from error
    except (Exception, SystemExit) as error:
        if hasattr(error, "exit_status"):  # an error of zoo, which is meant for the user
            raise SourceError(str(error)) from error
        raise UnexpectedError(
            f"the export failed unexpectedly while {step()}: {one_line(error)} ({_raised_at(error)}). If "
            "the cause is not in your network, report it with the traceback."
        ) from error


def one_line(error: BaseException) -> str:
    """Return class and message of a foreign exception in one line, the beginning if it is long."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:MAX_MESSAGE]


def _raised_at(error: BaseException) -> str:
    """Return file and line that raised `error`, without the folder."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{Path(frame.filename).name}:{frame.lineno}"


@contextlib.contextmanager
def dynamic_size_errors(enabled: bool = True) -> Iterator[None]:
    """Prefix each ExportError with "the input's height and width cannot be dynamic".

    For steps that succeed at a fixed size and fail only because height and width are dynamic.
    """
    try:
        yield
    except ExportError as error:
        if not enabled:
            raise
        raise type(error)(f"the input's height and width cannot be dynamic: {error}") from error
