"""From an image to a model's input, by the rule that travels with the model."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Self, get_args

from google.protobuf import json_format

from protos import inference, manifest
from serve.errors import UnsupportedModelError

PARAMETER = "zoonnx.preprocessing"
Interpolation = Literal["nearest", "bilinear", "bicubic"]
CropMode = Literal["center", "squash", "border"]


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """Resize, then crop to (`height`, `width`); the names and meanings are those of timm's data config.

    `channels` is 1 for grey, 3 for RGB. `crop_pct` is the crop's share of the resized image, in (0, 2]; above 1 the
    crop has a border. `mean` is of pixels scaled to 0..1, by channel: the colour of a border.
    """

    channels: int
    height: int
    width: int
    interpolation: Interpolation = "bilinear"
    crop_pct: float = 1.0
    crop_mode: CropMode = "center"
    mean: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.channels not in (1, 3):
            raise UnsupportedModelError(
                f"images have 1 or 3 channels, but the model's preprocessing says {self.channels}."
            )
        if min(self.height, self.width) < 1:
            raise UnsupportedModelError(f"the model's preprocessing says {self.height} x {self.width} pixels.")
        if self.interpolation not in get_args(Interpolation) or self.crop_mode not in get_args(CropMode):
            raise UnsupportedModelError(
                f"the model's preprocessing is unknown here: interpolation '{self.interpolation}', "
                f"crop_mode '{self.crop_mode}'."
            )
        if not 0 < self.crop_pct <= 2:
            raise UnsupportedModelError(f"the model's preprocessing says crop_pct {self.crop_pct}; it is in (0, 2].")
        if min(self.resized_to) < 1:
            raise UnsupportedModelError(
                f"the model's preprocessing resizes images to {self.resized_to[0]} x {self.resized_to[1]} pixels "
                f"({self.height} x {self.width} divided by crop_pct {self.crop_pct}): nothing would be left."
            )

    @property
    def resized_to(self) -> tuple[int, int]:
        """The (height, width) that an image covers, fits into or is squashed to before the crop."""
        return math.floor(self.height / self.crop_pct), math.floor(self.width / self.crop_pct)

    @classmethod
    def from_parameters(cls, parameters: Mapping[str, inference.ModelParameter]) -> Self | None:
        """Read the rule from a ModelConfig's parameters; None where there is none.

        Raises:
            UnsupportedModelError: the rule cannot be followed here.
        """
        if PARAMETER not in parameters:
            return None
        try:
            rule = json_format.Parse(parameters[PARAMETER].string_value, manifest.Preprocessing())
        except json_format.ParseError as error:
            raise UnsupportedModelError(f"the model's parameter {PARAMETER} cannot be read: {error}") from error
        return cls(
            channels=rule.channels,
            height=rule.height,
            width=rule.width,
            interpolation=rule.interpolation or "bilinear",  # type: ignore[arg-type]  # checked above
            crop_pct=rule.crop_pct or 1.0,
            crop_mode=rule.crop_mode or "center",  # type: ignore[arg-type]  # checked above
            mean=tuple(rule.mean),
        )
