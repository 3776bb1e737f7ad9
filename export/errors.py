"""What can go wrong on the way from PyTorch to ONNX.

ExportError
├── SettingsError           a setting out of its range
├── SourceError             no network comes from where it is said to come from
├── UnsupportedNetworkError           the network cannot be exported as it stands: training mode, weights that are not finite
├── ConversionError         torch.onnx could not convert the network, or did not do what was asked
├── ShapeError              two witnesses contradict each other on a shape
├── ParityError             the ONNX model and PyTorch disagree
├── CalibrationDataError    trained weights without images to judge a variant by
├── VariantError            a variant could not be made, or one that was asked for was refused
├── RepositoryError         the target cannot take this model
│   ├── TargetError               the disk did not take it
│   └── RepositoryConflictError   what stands there promises something else
├── CheckError              a written model is not what its manifest promises
│   └── DamagedError        a file of it cannot even be read
├── NoModelError            there is no model at that place
├── NewerSchemaError        a model that only a later zoonnx understands
├── DemoError               a step of the demo failed
└── OccupiedFolderError     a folder that somebody else made is in the way

`exit_status` is the process's exit status when a command ends with the error: 2 the user's mistake, 1 the work failed.
"""

from pathlib import Path
from typing import ClassVar


class ExportError(Exception):
    """Any error of this package."""

    exit_status: ClassVar[int] = 2


class SettingsError(ExportError):
    """A setting is out of its range."""


class SourceError(ExportError):
    """No network comes from where it is said to come from, or not all that an export must know of it."""


class UnsupportedNetworkError(ExportError):
    """The network cannot be exported as it stands."""


class ConversionError(ExportError):
    """torch.onnx could not convert the network, or did not do what was asked."""

    exit_status = 1


class ShapeError(ExportError):
    """Two witnesses contradict each other on a shape."""

    exit_status = 1


class ParityError(ExportError):
    """The ONNX model and PyTorch disagree by more than float32 explains."""

    exit_status = 1


class CalibrationDataError(ExportError):
    """Trained weights come without images to calibrate and to judge a variant by."""


class VariantError(ExportError):
    """A variant could not be made, or one that was asked for was refused."""

    exit_status = 1


class RepositoryError(ExportError):
    """The model repository cannot take this model."""


class TargetError(RepositoryError):
    """The disk did not take a model."""

    exit_status = 1


class RepositoryConflictError(RepositoryError):
    """The repository holds a model of this name that promises another interface."""


class CheckError(ExportError):
    """A written model is not what its manifest promises."""

    exit_status = 1


class DamagedError(CheckError):
    """A file of a written model cannot be read; `file` and `words` say which, and why."""

    def __init__(self, file: Path, words: str) -> None:
        super().__init__(f"{file}: {words}")
        self.file, self.words = file, words


class NoModelError(ExportError):
    """There is no model at that place."""


class NewerSchemaError(ExportError):
    """A later zoonnx wrote this model, in a form that this one does not know."""


class DemoError(ExportError):
    """A step of the demo failed."""

    exit_status = 1


class OccupiedFolderError(ExportError):
    """A folder that somebody else made is in the way."""
