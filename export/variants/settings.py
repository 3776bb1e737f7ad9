"""Settings for building variants."""

from dataclasses import dataclass, field
from typing import Literal, get_args

from export.errors import SettingsError

Kind = Literal["fp16", "int8", "ort", "fixed"]
Target = Literal["cpu", "cuda"]
KINDS: tuple[Kind, ...] = get_args(Kind)
TARGETS: tuple[Target, ...] = get_args(Target)
SERVABLE: tuple[Kind, ...] = ("fp16", "int8")  # the others are files for devices


@dataclass(frozen=True)
class Bounds:
    """Acceptance bounds of servable variants.

    Attributes:
        max_accuracy_drop_points: Largest loss of top-1 accuracy in percentage points, 0 to 100.
        min_speedup: Smallest ratio of fp32's latency to the variant's; 1 means not slower, 0 means no bound.
        min_sqnr_db: Smallest signal to quantisation noise ratio of any output in dB, -200 to 200; used for networks
            with random weights, whose accuracy is meaningless.
    """

    max_accuracy_drop_points: float = 1.0
    min_speedup: float = 1.0
    min_sqnr_db: float = 10.0

    def __post_init__(self) -> None:
        """Reject values out of range. Raises: SettingsError."""
        if not 0 <= self.max_accuracy_drop_points <= 100:
            raise SettingsError(f"max_accuracy_drop_points must be from 0 to 100; got {self.max_accuracy_drop_points}.")
        if not 0 <= self.min_speedup < float("inf"):
            raise SettingsError(f"min_speedup must be 0 or more (1 means not slower); got {self.min_speedup}.")
        if not -200 <= self.min_sqnr_db <= 200:
            raise SettingsError(f"min_sqnr_db must be from -200 to 200; got {self.min_sqnr_db}.")


@dataclass(frozen=True)
class VariantSettings:
    """Which variants to build, and how to evaluate them.

    Attributes:
        kinds: The variants, without repetition.
        calibration_data: Dataset for calibration and evaluation; empty for the run's own.
        calibration_images: Maximum number of training images for calibration, at least 1.
        test_images: Maximum number of validation images, and of test images, for evaluation; at least 1.
        target: Device on which the latency of servable variants is measured.
        bounds: Acceptance bounds of servable variants.
    """

    kinds: tuple[Kind, ...]
    calibration_data: str = ""
    calibration_images: int = 128
    test_images: int = 1000
    target: Target = "cpu"
    bounds: Bounds = field(default_factory=Bounds)

    def __post_init__(self) -> None:
        """Reject values out of range. Raises: SettingsError."""
        if not self.kinds or len(set(self.kinds)) != len(self.kinds):
            raise SettingsError(f"expected one or more of {', '.join(KINDS)}, each once; got {list(self.kinds)}.")
        for name in ("calibration_images", "test_images"):
            if getattr(self, name) < 1:
                raise SettingsError(f"{name} must be at least 1; got {getattr(self, name)}.")


def parse_kinds(text: str) -> tuple[Kind, ...]:
    """Parse a list such as `fp16,int8`. Raises: SettingsError."""
    return tuple(_parse_kind(name.strip()) for name in text.split(","))


def parse_target(text: str) -> Target:
    """Parse `cpu` or `cuda`. Raises: SettingsError."""
    for target in TARGETS:
        if text == target:
            return target
    raise SettingsError(f"there is no target '{text}': choose {' or '.join(TARGETS)}.")


def _parse_kind(name: str) -> Kind:
    for kind in KINDS:
        if name == kind:
            return kind
    raise SettingsError(f"there is no variant '{name}': choose from {', '.join(KINDS)}, separated by commas.")
