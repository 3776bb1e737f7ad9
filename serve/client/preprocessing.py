"""The preprocessing of images for a model, which is stored in its configuration."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Self, get_args

from google.protobuf import json_format

from protos import inference, manifest
from protos.keys import PREPROCESSING_KEY
from serve.errors import UnsupportedModelError

Interpolation = Literal["nearest", "bilinear", "bicubic"]
CropMode = Literal["center", "squash", "border"]


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """Resize an image, then crop it; names and meanings are those of timm's data config.

    Attributes:
        channels: 1 for grey, 3 for RGB.
        height: Height after the crop, in pixels.
        width: Width after the crop, in pixels.
        interpolation: The filter of the resize.
        crop_pct: The cropped share of the resized image, in (0, 2]; above 1 the crop has a border.
        crop_mode: Before the crop, `center` resizes the image to cover `resized_to`, `border` to fit into it; `squash`
            resizes it to exactly that size, regardless of its aspect ratio.
        mean: The mean of each channel, of pixels scaled to 0..1; the colour of a border.
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
            raise UnsupportedModelError(f"the model's preprocessing must have 1 or 3 channels; got {self.channels}.")
        if min(self.height, self.width) < 1:
            raise UnsupportedModelError(
                f"the model's preprocessing must have a size of at least 1 x 1; got {self.height} x {self.width}."
            )
        if self.interpolation not in get_args(Interpolation) or self.crop_mode not in get_args(CropMode):
            raise UnsupportedModelError(
                f"the model's preprocessing is not supported: interpolation '{self.interpolation}', "
                f"crop_mode '{self.crop_mode}'."
            )
        if not 0 < self.crop_pct <= 2:
            raise UnsupportedModelError(f"the model's crop_pct must be in (0, 2]; got {self.crop_pct}.")
        if min(self.resized_to) < 1:
            raise UnsupportedModelError(
                f"the model's preprocessing resizes images to {self.resized_to[0]} x {self.resized_to[1]} pixels "
                f"({self.height} x {self.width} divided by crop_pct {self.crop_pct}): no pixel would remain."
            )

    @property
    def resized_to(self) -> tuple[int, int]:
        """The (height, width) that `crop_mode` refers to: the crop's size divided by `crop_pct`, rounded down."""
        return math.floor(self.height / self.crop_pct), math.floor(self.width / self.crop_pct)

    @classmethod
    def from_parameters(cls, parameters: Mapping[str, inference.ModelParameter]) -> Self | None:
        """Return the preprocessing in the parameters of a ModelConfig; None if there is none.

        Raises:
            UnsupportedModelError: The parameter cannot be parsed, or a value is not supported.
        """
        if PREPROCESSING_KEY not in parameters:
            return None
        try:
            message = json_format.Parse(parameters[PREPROCESSING_KEY].string_value, manifest.Preprocessing())
        except json_format.ParseError as error:
            raise UnsupportedModelError(
                f"the model's parameter {PREPROCESSING_KEY} cannot be parsed: {error}"
            ) from error
        return cls(
            channels=message.channels,
            height=message.height,
            width=message.width,
            interpolation=message.interpolation or "bilinear",  # type: ignore[arg-type]  # checked above
            crop_pct=message.crop_pct or 1.0,
            crop_mode=message.crop_mode or "center",  # type: ignore[arg-type]  # checked above
            mean=tuple(message.mean),
        )
