"""From pixels to the numbers a network was trained on."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, Protocol, Self, get_args

import torch
from timm.data import resolve_model_data_config
from torch import Tensor, nn

from zoo.errors import SettingsError
from zoo.networks.timm_config import config_of

Interpolation = Literal["nearest", "bilinear", "bicubic"]
CropMode = Literal["center", "squash", "border"]

MAX_CROP_PCT = 2.0  # timm has values up to 1.15


class InputRule(Protocol):
    """How what a data set holds becomes what a network takes."""

    @property
    def input_size(self) -> tuple[int, ...]: ...

    def normalise(self, images: Tensor) -> Tensor: ...


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """What a network expects of an image: resize, crop, scale to 0..1, subtract `mean`, divide by `std`.

    `input_size` is (C, H, W); `mean` and `std` have one number per channel; `crop_pct` is the crop's share of the
    resized image: over 1, the image is resized to less than the crop and padded with 0. Names and meanings are
    those of timm's data config. A signal of length L is an image of height 1: its size is (C, 1, L).
    """

    input_size: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: Interpolation = "bilinear"
    crop_pct: float = 1.0
    crop_mode: CropMode = "center"

    def __post_init__(self) -> None:
        if len(self.input_size) != 3 or min(self.input_size) < 1:
            raise SettingsError(f"input_size is (channels, height, width), each 1 or more; got {self.input_size}")
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) != self.channels:
                raise SettingsError(f"{name} needs one number for each of {self.channels} channels; got {values}")
            if not all(map(math.isfinite, values)):
                raise SettingsError(f"{name} must be finite numbers; got {values}")
        if min(self.std) <= 0:
            raise SettingsError(f"std must be greater than 0 in every channel; got {self.std}")
        if not 0 < self.crop_pct <= MAX_CROP_PCT:
            raise SettingsError(f"crop_pct is in (0, {MAX_CROP_PCT}]; got {self.crop_pct}")
        _check_choice("interpolation", self.interpolation, get_args(Interpolation))
        _check_choice("crop_mode", self.crop_mode, get_args(CropMode))

    @property
    def channels(self) -> int:
        return self.input_size[0]

    @classmethod
    def from_net(cls, network: nn.Module) -> Self:
        """What `network` itself says it expects, in timm's `pretrained_cfg`."""
        return cls.from_json(resolve_model_data_config(network))

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """The inverse of `to_json`.

        Raises:
            SettingsError: a name is missing or unknown, or a value is out of its range.
        """
        names = {field.name for field in fields(cls)}
        if values.keys() != names:
            odd = ", ".join(sorted(values.keys() ^ names))
            raise SettingsError(f"preprocessing has exactly {', '.join(sorted(names))}; missing or unknown: {odd}")
        arguments: dict[str, Any] = {name: _immutable(value) for name, value in values.items()}
        return cls(**arguments)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, with timm's names."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    def attach_to(self, network: nn.Module) -> None:
        """Make this what `network` says it expects, so that `from_net` and timm's own tools find it."""
        config_of(network).update(asdict(self))

    def normalise(self, images: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """Uint8 images, (N, C, H, W) or (N, H, W, C), of the network's size to `dtype` (N, C, H, W).

        Raises:
            SettingsError: the images are not uint8 or not of this size.
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


def _immutable(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise SettingsError(f"{name} is one of {', '.join(choices)}; got '{value}'")
