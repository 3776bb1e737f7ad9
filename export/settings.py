"""Settings of an export."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from export.errors import SettingsError
from export.input_spec import InputSpec, require_valid

Activation = Literal["softmax", "sigmoid"]
MODEL_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,199}")  # file systems allow 255; variants append a suffix
OPSETS = range(18, 24)
MAX_BATCH_SIZE = 2**31 - 1  # an int32 in Triton's configuration


@dataclass(frozen=True)
class ExportSettings:
    """Options of one export.

    Attributes:
        to: The model repository.
        name: The model's name in the repository.
        opset: The ONNX operator set, from 18 (which the exporter writes natively) to 23.
        max_batch_size: The largest batch that a server may form, from 1 to 2**31 - 1.
        max_queue_delay_us: Microseconds that a server may wait for a fuller batch; 0 does not wait.
        raw: Export the bare network: float32 (N, C, H, W) in, or `inputs`; the network's own outputs out; no image
            preprocessing, no probabilities.
        inputs: With `raw`, the inputs of a network that has others than one image, by the name of the forward's
            argument; `batch.image` is an entry of a dict.
        taps: Keep the input of each BatchNorm in the file, which is otherwise folded into the preceding convolution.
        calibrated: Divide the logits by the run's temperature before computing the probabilities.
        dynamic_size: Make height and width of the input dynamic; a network that only accepts one size is rejected.
        activation: Computes the probabilities; None: sigmoid for multi-label runs, else softmax.
        keep_branches: Export blocks of several branches as they are, without re-parameterising them.
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
    keep_branches: bool = False
    activation: Activation | None = None
    inputs: Mapping[str, InputSpec] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Reject values out of range. Raises: SettingsError."""
        if not MODEL_NAME.fullmatch(self.name):
            raise SettingsError(
                f"{self.name!r} cannot be a model's name: use at most 200 letters, digits, '_', '.' and '-', not "
                "starting with '.' or '-' (--name)."
            )
        if self.opset not in OPSETS:
            raise SettingsError(f"opset {self.opset} is not supported: choose {OPSETS.start} to {OPSETS.stop - 1}.")
        if not 1 <= self.max_batch_size <= MAX_BATCH_SIZE:
            raise SettingsError(f"max_batch_size is {self.max_batch_size}: it must be 1 to {MAX_BATCH_SIZE}.")
        if self.activation is not None and self.activation not in get_args(Activation):
            raise SettingsError(
                f"activation must be one of {', '.join(get_args(Activation))}; got '{self.activation}'."
            )
        if self.max_queue_delay_us < 0:
            raise SettingsError(f"max_queue_delay_us is {self.max_queue_delay_us}: it must not be negative.")
        if self.raw and self.calibrated:
            raise SettingsError("raw and calibrated exclude each other: a raw model has no probabilities to calibrate.")
        require_valid(self.inputs)
        if self.inputs and not self.raw:
            raise SettingsError(
                f"the inputs {', '.join(self.inputs)} are for raw models: add --raw (raw=True), or omit --input."
            )
