"""Preprocessing of images: from pixels to the input that a network was trained on."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, Protocol, Self, get_args

import torch
from timm.data import resolve_model_data_config
from torch import Tensor, nn

from zoo.errors import SettingsError
from zoo.networks.blocks import check_choice
from zoo.networks.timm_config import config_of

Interpolation = Literal["nearest", "bilinear", "bicubic"]
CropMode = Literal["center", "squash", "border"]

MAX_CROP_PCT = 2.0  # the largest in timm is 1.15


class InputTransform(Protocol):
    """Conversion of a dataset's samples to a network's input.

    Attributes:
        input_size: Shape of one input without the batch axis.
    """

    @property
    def input_size(self) -> tuple[int, ...]: ...

    def normalise(self, images: Tensor) -> Tensor: ...


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """Preprocessing of an image: resize, crop, scale to 0..1, subtract `mean`, divide by `std`.

    Names and meanings are those of timm's data config.

    Attributes:
        input_size: Shape of the network's input, (C, H, W). A signal of length L is an image of height 1, (C, 1, L).
        mean: One number per channel.
        std: One number per channel, greater than 0.
        interpolation: How the image is resized.
        crop_pct: Size of the crop relative to the resized image, in (0, 2]; over 1, the image is resized to less than
            the crop and padded with 0.
        crop_mode: "center" resizes the shorter side and crops the middle, "squash" resizes both sides without keeping
            the aspect ratio, "border" resizes the longer side and pads the shorter one.
    """

    input_size: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: Interpolation = "bilinear"
    crop_pct: float = 1.0
    crop_mode: CropMode = "center"

    def __post_init__(self) -> None:
        if len(self.input_size) != 3 or min(self.input_size) < 1:
            raise SettingsError(f"input_size must be (channels, height, width), each 1 or more; got {self.input_size}")
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) != self.channels:
                raise SettingsError(f"{name} needs one number for each of {self.channels} channels; got {values}")
            if not all(map(math.isfinite, values)):
                raise SettingsError(f"{name} must be finite numbers; got {values}")
        if min(self.std) <= 0:
            raise SettingsError(f"std must be greater than 0 in every channel; got {self.std}")
        if not 0 < self.crop_pct <= MAX_CROP_PCT:
            raise SettingsError(f"crop_pct must be in (0, {MAX_CROP_PCT}]; got {self.crop_pct}")
        check_choice("interpolation", self.interpolation, get_args(Interpolation))
        check_choice("crop_mode", self.crop_mode, get_args(CropMode))

    @property
    def channels(self) -> int:
        return self.input_size[0]

    @classmethod
    def from_network(cls, network: nn.Module) -> Self:
        """Return the preprocessing in the network's `pretrained_cfg`."""
        return cls.from_json(resolve_model_data_config(network))

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Return the preprocessing that `to_json` wrote.

        Raises:
            SettingsError: a key is missing or unknown, or a value is out of range.
        """
        names = {field.name for field in fields(cls)}
        if values.keys() != names:
            different = ", ".join(sorted(values.keys() ^ names))
            raise SettingsError(
                f"preprocessing must have the keys {', '.join(sorted(names))}; missing or unknown: {different}"
            )
        arguments: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in values.items()
        }
        return cls(**arguments)

    def to_json(self) -> dict[str, Any]:
        """Return the values for JSON, under timm's names."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    def attach_to(self, network: nn.Module) -> None:
        """Store this in the network's `pretrained_cfg`, where `from_network` and timm's tools read it."""
        config_of(network).update(asdict(self))

    def normalise(self, images: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """Convert uint8 images of the network's size, (N, C, H, W) or (N, H, W, C), to `dtype` (N, C, H, W).

        Raises:
            SettingsError: the images are not uint8 or have another size.
        """
        pixels = self._channels_first(images).to(dtype) / 255  # (N, C, H, W)
        mean = torch.tensor(self.mean, dtype=dtype, device=images.device).view(-1, 1, 1)
        std = torch.tensor(self.std, dtype=dtype, device=images.device).view(-1, 1, 1)
        return (pixels - mean) / std

    def _channels_first(self, images: Tensor) -> Tensor:
        channels, height, width = self.input_size
        if images.dtype == torch.uint8 and images.shape[1:] == (channels, height, width):
            return images
        if images.dtype == torch.uint8 and images.shape[1:] == (height, width, channels):
            return images.permute(0, 3, 1, 2)
        raise SettingsError(
            f"expected uint8 images of shape (N, {channels}, {height}, {width}) or (N, {height}, {width}, {channels}); "
            f"got {images.dtype} of shape {tuple(images.shape)}"
        )
