"""Picture files to pixels, exactly as timm's evaluation transform prepares them with Pillow."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from serve.errors import ImageError
from serve.preprocessing import Preprocessing

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"})
FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}
MODES = {1: "L", 3: "RGB"}
Pixels = npt.NDArray[np.uint8]
Size = tuple[int, int]  # (width, height), as Pillow has it


def find(places: Sequence[Path]) -> list[Path]:
    """Return the given files, and the pictures in the given folders and below, each folder's sorted.

    Raises:
        ImageError: there is nothing at a place, or no picture in a folder.
    """
    return [file for place in places for file in _find(place)]


def load(path: Path, rule: Preprocessing) -> Pixels:
    """Return a picture as the model wants it: uint8 (H, W, C).

    Raises:
        ImageError: the file is no picture that Pillow can read.
    """
    try:
        with Image.open(path) as file:
            image: Image.Image = _eight_bit(file).convert(MODES[rule.channels])
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ImageError(f"{path} cannot be read as a picture: it is damaged, or none.") from error
    return prepare(image, rule)


def _eight_bit(image: Image.Image) -> Image.Image:
    """Scale 16-bit grey to 8 bits; Pillow's own conversion would clip everything above 255 to white."""
    if not image.mode.startswith("I;16"):
        return image
    return Image.fromarray((np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8))


def prepare(image: Image.Image, rule: Preprocessing) -> Pixels:
    """Resize and crop; returns uint8 (H, W, C). `image` already has the rule's channels."""
    resized = image.resize(_resized(image.size, rule), FILTERS[rule.interpolation])
    fill = tuple(round(255 * value) for value in rule.mean) if rule.crop_mode == "border" else ()
    pixels: npt.NDArray[Any] = np.asarray(_crop(resized, (rule.width, rule.height), fill), np.uint8)
    return pixels.reshape(rule.height, rule.width, rule.channels)


def _find(place: Path) -> list[Path]:
    if place.is_file():
        return [place]
    if not place.is_dir():
        raise ImageError(f"there is no file or folder {place}.")
    found = sorted(file for file in place.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())
    if not found:
        raise ImageError(f"{place} holds no picture: {', '.join(sorted(SUFFIXES))} are looked for.")
    return found


def _resized(size: Size, rule: Preprocessing) -> Size:
    """The size before the crop: `center` covers it, `border` fits into it, `squash` gives up the proportions."""
    width, height = size
    target = (math.floor(rule.width / rule.crop_pct), math.floor(rule.height / rule.crop_pct))
    if rule.crop_mode == "squash":
        return target
    ratios = (width / target[0], height / target[1])
    if rule.crop_mode == "border":
        return round(width / max(ratios)), round(height / max(ratios))
    if target[0] == target[1]:  # a square target truncates the longer edge, others round: so does timm
        short, edge = min(size), target[0]
        return (edge, int(edge * height / short)) if width <= height else (int(edge * width / short), edge)
    return round(width / min(ratios)), round(height / min(ratios))


def _crop(image: Image.Image, size: Size, fill: tuple[int, ...]) -> Image.Image:
    """Cut `size` from the middle, padding first what is smaller."""
    missing = [max(0, want - have) for want, have in zip(size, image.size, strict=True)]
    if any(missing):
        left, top = (each // 2 for each in missing)
        border = (left, top, missing[0] - left, missing[1] - top)
        colour = (fill if len(fill) > 1 else fill[0]) if fill else 0
        image = ImageOps.expand(image, border, colour)
    left, top = (round((have - want) / 2) for want, have in zip(size, image.size, strict=True))
    return image.crop((left, top, left + size[0], top + size[1]))
