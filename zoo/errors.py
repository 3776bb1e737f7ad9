"""Exceptions of the zoo package.

    ZooError
    ├── UnknownNetworkError
    ├── SettingsError
    ├── DataError
    ├── GeometryError
    ├── DeviceError
    ├── CheckpointError
    ├── TrainingError
    └── InterruptedRunError

The command line exits with `exit_status`: 2 for a user error, 1 for failed work, 130 for Ctrl-C.
"""

import difflib
from collections.abc import Iterable
from typing import ClassVar


class ZooError(Exception):
    """Base class of all errors that zoo raises deliberately."""

    exit_status: ClassVar[int] = 2


class UnknownNetworkError(ZooError, ValueError):
    """Neither the catalog nor timm has a network of that name."""

    def __init__(self, name: str, known: Iterable[str]) -> None:
        super().__init__(
            f"unknown network '{name}'{did_you_mean(name, known) or '; `zoonnx models` lists all networks'}"
        )


class SettingsError(ZooError, ValueError):
    """A setting is out of range, or settings contradict each other or the network."""


class DataError(ZooError, ValueError):
    """A dataset is missing or invalid, or its images do not fit the network."""


class GeometryError(ZooError, ValueError):
    """An input size is malformed, or the network does not accept it.

    Attributes:
        layer: Path of the layer that rejects it; "" if no single layer does.
    """

    def __init__(self, message: str, layer: str = "") -> None:
        super().__init__(message)
        self.layer = layer


class DeviceError(ZooError):
    """The requested device is not available on this machine."""


class CheckpointError(ZooError):
    """A run folder or weights are missing or incomplete, already exist, or belong to another network."""


class TrainingError(ZooError):
    """Training started and failed."""

    exit_status: ClassVar[int] = 1


class InterruptedRunError(ZooError):
    """The user interrupted a run, whose state is saved; it can be resumed."""

    exit_status: ClassVar[int] = 130


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return the end of a message about an unknown name: the closest known names, or "" if none is close."""
    matches = difflib.get_close_matches(name, list(dict.fromkeys(known)), n=3)
    *first, last = map(repr, matches or [""])
    names = f"{', '.join(first)} or {last}" if first else last
    return f"; did you mean {names}?" if matches else ""
