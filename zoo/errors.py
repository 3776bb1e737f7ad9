"""What can go wrong in zoo.

    ZooError
    ├── UnknownNetworkError    no network of that name (also a ValueError)
    ├── SettingsError      a setting, or settings that do not fit together (also a ValueError)
    ├── DataError          a data set, or images that do not fit the network (also a ValueError)
    ├── GeometryError      a network refuses an input size, or a stride does not fit it (also a ValueError)
    ├── DeviceError        the device is not there
    ├── CheckpointError    a run's folder or weights: missing, incomplete, of another network
    ├── TrainingError      training began and failed
    └── InterruptedRunError   Ctrl-C; the run can be resumed

`exit_status` is what the command line ends with: 2 for the user's mistake, 1 for work that failed, 130 for Ctrl-C.
"""

import difflib
from collections.abc import Iterable
from typing import ClassVar


class ZooError(Exception):
    """Any error that zoo raises on purpose."""

    exit_status: ClassVar[int] = 2


class UnknownNetworkError(ZooError, ValueError):
    """No network of that name, neither ours nor timm's."""

    def __init__(self, name: str, known: Iterable[str]) -> None:
        super().__init__(f"no network is called '{name}'{did_you_mean(name, known) or '; `zoonnx models` lists them'}")


class SettingsError(ZooError, ValueError):
    """A setting is out of its range, or settings do not fit together."""


class DataError(ZooError, ValueError):
    """A data set does not exist, or images do not fit the network."""


class GeometryError(ZooError, ValueError):
    """A network cannot take an input of that size; `layer` is the path of the layer that refuses it."""

    def __init__(self, message: str, layer: str = "") -> None:
        super().__init__(message)
        self.layer = layer


class DeviceError(ZooError):
    """The device asked for is not on this machine."""


class CheckpointError(ZooError):
    """A run's folder or its weights are missing, incomplete, in the way, or of another network."""


class TrainingError(ZooError):
    """Training began and failed."""

    exit_status: ClassVar[int] = 1


class InterruptedRunError(ZooError):
    """Someone stopped the run; its state is saved."""

    exit_status: ClassVar[int] = 130


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown name: the closest known ones, or nothing."""
    close = difflib.get_close_matches(name, list(dict.fromkeys(known)), n=3)
    return f"; did you mean {' or '.join(repr(candidate) for candidate in close)}?" if close else ""
