"""Exceptions of the export package, and the exit status of a command that ends with each.

ExportError
├── SettingsError
├── SourceError
├── UnsupportedNetworkError
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
└── OccupiedFolderError
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar


class ExportError(Exception):
    """Base class. `exit_status` is 2 for a mistake of the user, 1 where the work itself failed."""

    exit_status: ClassVar[int] = 2


class SettingsError(ExportError):
    """A setting is out of its range, or contradicts another one."""


class SourceError(ExportError):
    """The network to export cannot be loaded, or its preprocessing is unknown."""


class UnsupportedNetworkError(ExportError):
    """No correct ONNX model can be made of this network as it is."""


class ConversionError(ExportError):
    """torch.onnx failed, or wrote a model that is invalid or differs from the request."""

    exit_status = 1


class ShapeError(ExportError):
    """Two independent sources report different shapes for one value."""

    exit_status = 1


class ParityError(ExportError):
    """Outputs of the ONNX model and of PyTorch differ by more than the tolerance."""

    exit_status = 1


class CalibrationDataError(ExportError):
    """Trained weights come without the images needed to calibrate and evaluate a variant."""


class VariantError(ExportError):
    """A requested variant could not be made, or was rejected by its acceptance bounds."""

    exit_status = 1


class RepositoryError(ExportError):
    """The model repository cannot hold this model."""


class TargetError(RepositoryError):
    """Writing failed, for example because the disk is full."""

    exit_status = 1


class RepositoryConflictError(RepositoryError):
    """An existing model of this name has another configuration or other labels."""


class CheckError(ExportError):
    """A written model contradicts its manifest."""

    exit_status = 1


class DamagedError(CheckError):
    """A file of a written model cannot be read; `words` is the reason."""

    def __init__(self, file: Path, words: str) -> None:
        super().__init__(f"{file}: {words}")
        self.file, self.words = file, words


class NoModelError(ExportError):
    """The given path holds no model."""


class NewerSchemaError(ExportError):
    """The model was written by a later zoonnx, in a schema unknown to this one."""


class DemoError(ExportError):
    """A step of the demo failed."""

    exit_status = 1


class OccupiedFolderError(ExportError):
    """The demo's folder already exists and was not created by the demo."""


@contextlib.contextmanager
def dynamic_size_errors(enabled: bool = True) -> Iterator[None]:
    """Prefix the message of each ExportError with the statement that height and width cannot be dynamic.

    For steps that a network passes at one fixed size and fails only because its size is to be dynamic.
    """
    try:
        yield
    except ExportError as error:
        if not enabled:
            raise
        raise type(error)(f"the input's height and width cannot be dynamic: {error}") from error
