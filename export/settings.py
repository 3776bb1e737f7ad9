"""What a user may choose about an export."""

import re
from dataclasses import dataclass
from pathlib import Path

from export.errors import SettingsError

MODEL_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,199}")  # a file system takes 255, and variants add to it
OPSETS = range(18, 24)
MAX_BATCH_SIZE = 2**31 - 1  # an int32 in Triton's configuration


@dataclass(frozen=True)
class ExportSettings:
    """Where an export goes and what it promises.

    `opset` is between 18 (what the exporter writes natively) and 23; `max_batch_size` is 1 to 2**31 - 1.
    `raw` leaves out the images and the probabilities: float32 (N, C, H, W) in, the network's own outputs out, whatever
    they are.
    `taps` keeps what goes into each BatchNorm, which else is folded into its convolution.
    `calibrated` divides the logits by the run's temperature on their way to the probabilities.
    `dynamic_size` leaves the height and the width of the input free; a network that takes its own size alone is refused.
    """

    to: Path
    name: str
    opset: int = 20
    max_batch_size: int = 32
    max_queue_delay_us: int = 0
    raw: bool = False
    taps: bool = False
    calibrated: bool = False
    dynamic_size: bool = False

    def __post_init__(self) -> None:
        """Refuse values out of range. Raises: SettingsError."""
        if not MODEL_NAME.fullmatch(self.name):
            raise SettingsError(
                f"{self.name!r} cannot be a model's name: use letters, digits, '_', '.' and '-', not "
                "starting with '.' or '-', at most 200 of them (--name)."
            )
        if self.opset not in OPSETS:
            raise SettingsError(f"opset {self.opset} is not supported: choose {OPSETS.start} to {OPSETS.stop - 1}.")
        if not 1 <= self.max_batch_size <= MAX_BATCH_SIZE:
            raise SettingsError(f"max_batch_size is {self.max_batch_size}: it must be 1 to {MAX_BATCH_SIZE}.")
        if self.max_queue_delay_us < 0:
            raise SettingsError(f"max_queue_delay_us is {self.max_queue_delay_us}: it cannot be negative.")
        if self.raw and self.calibrated:
            raise SettingsError(
                "a raw model gives no probabilities that could be calibrated: leave one of the two out."
            )
