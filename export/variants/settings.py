"""What a user may choose about variants."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

from export.errors import SettingsError

Kind = Literal["fp16", "int8", "ort", "fixed"]
Target = Literal["cpu", "cuda"]
KINDS: tuple[Kind, ...] = get_args(Kind)
TARGETS: tuple[Target, ...] = get_args(Target)
SERVABLE: tuple[Kind, ...] = ("fp16", "int8")


@dataclass(frozen=True)
class Bounds:
    """Within what a variant is kept.

    `max_accuracy_drop_points` is in points of top-1 accuracy, 0 to 100; `min_speedup` is fp32's time over the
    variant's; `min_sqnr_db` judges the outputs where accuracy means nothing, because the network is untrained.
    """

    max_accuracy_drop_points: float = 1.0
    min_speedup: float = 1.0
    min_sqnr_db: float = 10.0

    def __post_init__(self) -> None:
        """Refuse values out of range. Raises: SettingsError."""
        if not 0 <= self.max_accuracy_drop_points <= 100:
            raise SettingsError(f"max_accuracy_drop_points is {self.max_accuracy_drop_points}: it is from 0 to 100.")
        if not 0 <= self.min_speedup < float("inf"):
            raise SettingsError(f"min_speedup is {self.min_speedup}: it is 0 or more; 1 means not slower.")
        if not -200 <= self.min_sqnr_db <= 200:
            raise SettingsError(f"min_sqnr_db is {self.min_sqnr_db}: it is from -200 to 200.")


@dataclass(frozen=True)
class VariantSettings:
    """Which variants to make, and what to judge them by.

    `calibration_data` names a data set, empty for the run's own; `calibration_pictures` and `test_images` are at
    most so many of its training and its test images; `target` is the device on which speed counts.
    """

    kinds: tuple[Kind, ...]
    calibration_data: str = ""
    calibration_pictures: int = 128
    test_images: int = 1000
    target: Target = "cpu"
    bounds: Bounds = field(default_factory=Bounds)

    def __post_init__(self) -> None:
        """Refuse values out of range. Raises: SettingsError."""
        if not self.kinds or len(set(self.kinds)) != len(self.kinds):
            raise SettingsError(f"variants are named once each, of {', '.join(KINDS)}; got {list(self.kinds)}.")
        for name in ("calibration_pictures", "test_images"):
            if getattr(self, name) < 1:
                raise SettingsError(f"{name} is {getattr(self, name)}: it must be at least 1.")


def parse_kinds(text: str) -> tuple[Kind, ...]:
    """Read `fp16,int8`. Raises: SettingsError."""
    return tuple(_kind(word) for word in _words(text))


def parse_target(text: str) -> Target:
    """Read `cpu` or `cuda`. Raises: SettingsError."""
    for target in TARGETS:
        if text == target:
            return target
    raise SettingsError(f"there is no target '{text}': choose of {', '.join(TARGETS)}.")


def _words(text: str) -> Sequence[str]:
    return [word.strip() for word in text.split(",")]


def _kind(word: str) -> Kind:
    for kind in KINDS:
        if word == kind:
            return kind
    raise SettingsError(f"there is no variant '{word}': choose of {', '.join(KINDS)}, with commas between them.")
