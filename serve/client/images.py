"""Image files to pixels, exactly as timm's evaluation transform prepares them with Pillow.

Files are decoded as zoo decodes them for training: EXIF orientation applied, transparency dropped, 16 bits scaled to 8.
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
DECODING_ERRORS = (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError)
Pixels = npt.NDArray[np.uint8]
Size = tuple[int, int]  # (width, height), Pillow's order


def find(paths: Sequence[Path]) -> list[Path]:
    """Return the files in `paths`, and all images in the folders in `paths`, searched recursively and sorted.

    Raises:
        ImageError: A path does not exist, or a folder contains no image.
    """
    return [file for path in paths for file in _find(path)]


def load(path: Path, preprocessing: Preprocessing) -> Pixels:
    """Return an image file as model input: uint8, (H, W, C).

    Raises:
        ImageError: Pillow cannot decode the file, the range of its values is unknown, or the image is too narrow.
    """
    try:
        with Image.open(path) as file:
            image = _convertible(ImageOps.exif_transpose(file)).convert(MODES[preprocessing.channels])
    except DECODING_ERRORS as error:
        raise ImageError(f"{path} cannot be read as an image: {_reason(error)}.") from error
    try:
        return prepare(image, preprocessing)
    except ImageError as error:
        raise ImageError(f"{path}: {error}") from error


def prepare(image: Image.Image, preprocessing: Preprocessing) -> Pixels:
    """Resize and crop an image in the mode of the model; return uint8, (H, W, C).

    Raises:
        ImageError: The resized image would have no row or no column.
    """
    size = _resized(image.size, preprocessing)
    if min(size) < 1:
        raise ImageError(
            f"an image of {image.size[0]} x {image.size[1]} pixels would be resized to {size[0]} x {size[1]}: "
            "it is too narrow for the model."
        )
    resized = image.resize(size, FILTERS[preprocessing.interpolation])
    fill = tuple(round(255 * value) for value in preprocessing.mean) if preprocessing.crop_mode == "border" else ()
    cropped = _crop(resized, (preprocessing.width, preprocessing.height), fill)
    pixels: npt.NDArray[Any] = np.asarray(cropped, np.uint8)
    return pixels.reshape(preprocessing.height, preprocessing.width, preprocessing.channels)


def _find(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise ImageError(f"there is no file or folder {path}.")
    files = sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())
    if not files:
        raise ImageError(f"{path} contains no images; the supported suffixes are {', '.join(sorted(SUFFIXES))}.")
    return files


def _convertible(image: Image.Image) -> Image.Image:
    """Return the image in a mode that `convert` reduces to L or RGB without clipping its values."""
    if image.mode in ("P", "PA"):
        return image.convert("RGBA")
    if image.mode.startswith("I"):  # 16 bits, in one of several byte orders, or 32 bits that hold 16-bit values
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 0xFFFF:
            raise ValueError("its pixel values exceed 16 bits")
        return Image.fromarray(np.rint(values / 257).astype(np.uint8))
    if image.mode == "F":
        raise ValueError("its pixel values are floats of unknown range")
    return image


def _reason(error: BaseException) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "it is damaged, or its format is not supported by Pillow"
    return str(error).rstrip(". ") or type(error).__name__


def _resized(size: Size, preprocessing: Preprocessing) -> Size:
    """Return the size before the crop: `center` covers the target, `border` fits into it, `squash` equals it."""
    width, height = size
    target = preprocessing.resized_to[::-1]
    if preprocessing.crop_mode == "squash":
        return target
    ratios = (width / target[0], height / target[1])
    if preprocessing.crop_mode == "border":
        return round(width / max(ratios)), round(height / max(ratios))
    if target[0] == target[1]:  # as in timm: a square target truncates the longer edge, any other target rounds
        short, edge = min(size), target[0]
        return (edge, int(edge * height / short)) if width <= height else (int(edge * width / short), edge)
    return round(width / min(ratios)), round(height / min(ratios))


def _crop(image: Image.Image, size: Size, fill: tuple[int, ...]) -> Image.Image:
    """Return the central crop of `size`; an image that is smaller is padded first."""
    missing = [max(0, target - actual) for target, actual in zip(size, image.size, strict=True)]
    if any(missing):
        left, top = (pixels // 2 for pixels in missing)
        border = (left, top, missing[0] - left, missing[1] - top)
        colour = (fill if len(fill) > 1 else fill[0]) if fill else 0
        image = ImageOps.expand(image, border, colour)
    left, top = (round((actual - target) / 2) for target, actual in zip(size, image.size, strict=True))
    return image.crop((left, top, left + size[0], top + size[1]))
