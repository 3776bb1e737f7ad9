"""Image files to pixels, exactly as timm's evaluation transform prepares them with Pillow.

Files are read as zoo reads them for training: upright, transparency dropped, 16 bits scaled to 8.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from serve.client.preprocessing import Preprocessing
from serve.errors import ImageError

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"})
FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}
MODES = {1: "L", 3: "RGB"}
READING_ERRORS = (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError)
Pixels = npt.NDArray[np.uint8]
Size = tuple[int, int]  # (width, height), as Pillow has it


def find(places: Sequence[Path]) -> list[Path]:
    """Return the given files, and the images in the given folders and below, each folder's sorted.

    Raises:
        ImageError: there is nothing at a place, or no image in a folder.
    """
    return [file for place in places for file in _find(place)]


def load(path: Path, rule: Preprocessing) -> Pixels:
    """Return an image as the model wants it: uint8 (H, W, C).

    Raises:
        ImageError: Pillow cannot read the file, its numbers have no known range, or the rule leaves nothing of it.
    """
    try:
        with Image.open(path) as file:
            image = _plain(ImageOps.exif_transpose(file)).convert(MODES[rule.channels])
    except READING_ERRORS as error:
        raise ImageError(f"{path} cannot be read as an image: {_reason(error)}.") from error
    try:
        return prepare(image, rule)
    except ImageError as error:
        raise ImageError(f"{path}: {error}") from error


def _plain(image: Image.Image) -> Image.Image:
    """The same image in a mode that `convert` takes to L or RGB without loss of range."""
    if image.mode in ("P", "PA"):
        return image.convert("RGBA")
    if image.mode.startswith("I"):  # 16 bits, in one of several byte orders, or 32 that hold 16
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 0xFFFF:
            raise ValueError("its numbers are beyond 16 bits")
        return Image.fromarray(np.rint(values / 257).astype(np.uint8))
    if image.mode == "F":
        raise ValueError("its numbers are floats, whose range nobody knows")
    return image


def _reason(error: BaseException) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "it is damaged, or none that Pillow knows"
    return str(error).rstrip(". ") or type(error).__name__


def prepare(image: Image.Image, rule: Preprocessing) -> Pixels:
    """Resize and crop; returns uint8 (H, W, C). `image` already has the rule's channels.

    Raises:
        ImageError: after the resize the image would have no row or no column.
    """
    size = _resized(image.size, rule)
    if min(size) < 1:
        raise ImageError(
            f"an image of {image.size[0]} x {image.size[1]} pixels would be resized to {size[0]} x {size[1]}: "
            "it is too long and too thin for the model."
        )
    resized = image.resize(size, FILTERS[rule.interpolation])
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
        raise ImageError(f"{place} holds no image: {', '.join(sorted(SUFFIXES))} are looked for.")
    return found


def _resized(size: Size, rule: Preprocessing) -> Size:
    """The size before the crop: `center` covers it, `border` fits into it, `squash` gives up the proportions."""
    width, height = size
    target = rule.resized_to[::-1]
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
