"""Image files of any common kind as 8-bit grey or RGB."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from zoo.errors import DataError

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"})
MODES = {1: "L", 3: "RGB"}
READING_ERRORS = (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError)


def read_image(file: Path, channels: int) -> Image.Image:
    """The image upright, in mode L for 1 channel, RGB for 3. Transparency is dropped, 16 bits become 8 by scaling.

    Raises:
        DataError: Pillow cannot read the file, its numbers have no known range, or a network wants other channels.
    """
    try:
        with Image.open(file) as opened:
            return upright(opened, channels)
    except READING_ERRORS as error:
        raise DataError(f"{file}: {reason_of(error)}") from error


def upright(image: Image.Image, channels: int) -> Image.Image:
    """The same of an open image; it raises READING_ERRORS, or a DataError for a network that wants other channels."""
    if channels not in MODES:
        raise DataError(f"images have 1 or 3 channels; the network wants {channels}")
    return _plain(ImageOps.exif_transpose(image)).convert(MODES[channels])


def image_error(file: Path) -> str:
    """Why a file cannot be used as an image, or nothing. JPEG files are decoded whole, but small, which is quick."""
    try:
        with Image.open(file) as opened:
            opened.draft("RGB", (1, 1))
            opened.load()
            _plain(opened)
    except READING_ERRORS as error:
        return reason_of(error)
    return ""


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


def reason_of(error: BaseException) -> str:
    if isinstance(error, FileNotFoundError):
        return "there is no such file"
    if isinstance(error, UnidentifiedImageError):
        return "it is no image that Pillow knows"
    return str(error).rstrip(". ") or type(error).__name__
