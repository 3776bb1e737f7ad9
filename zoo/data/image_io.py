"""Image files of any common format, read as 8-bit greyscale or RGB."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from zoo.errors import DataError

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"})
MODES = {1: "L", 3: "RGB"}
READING_ERRORS = (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError)


def read_image(file: Path, channels: int) -> Image.Image:
    """Read an image file in mode L for 1 channel or RGB for 3, rotated according to its EXIF orientation.

    Transparency is dropped; 16-bit values are scaled to 8 bits.

    Raises:
        DataError: Pillow cannot read the file, its values have no known range, or `channels` is neither 1 nor 3.
    """
    try:
        with Image.open(file) as opened:
            return decode(opened, channels)
    except READING_ERRORS as error:
        raise DataError(f"{file}: {reason_of(error)}") from error


def decode(image: Image.Image, channels: int) -> Image.Image:
    """Convert an open image as `read_image` does; reading errors are not translated.

    Raises:
        READING_ERRORS: the image cannot be decoded, or its values have no known range.
        DataError: `channels` is neither 1 nor 3.
    """
    if channels not in MODES:
        raise DataError(f"images have 1 or 3 channels; the network expects {channels}")
    return _to_8_bit(ImageOps.exif_transpose(image)).convert(MODES[channels])


def image_error(file: Path) -> str:
    """Return why a file cannot be used as an image; empty if it can.

    JPEG files are decoded completely, but at a reduced size, which is fast.
    """
    try:
        with Image.open(file) as opened:
            opened.draft("RGB", (1, 1))
            opened.load()
            _to_8_bit(opened)
    except READING_ERRORS as error:
        return reason_of(error)
    return ""


def _to_8_bit(image: Image.Image) -> Image.Image:
    """Return the image in a mode that `convert` turns into L or RGB without loss of range."""
    if image.mode in ("P", "PA"):
        return image.convert("RGBA")
    if image.mode.startswith("I"):  # 16 bits, in one of several byte orders, or 32 bits that hold 16
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 0xFFFF:
            raise ValueError("its pixel values exceed 16 bits")
        return Image.fromarray(np.rint(values / 257).astype(np.uint8))
    if image.mode == "F":
        raise ValueError("its pixel values are floats of unknown range")
    return image


def reason_of(error: BaseException) -> str:
    """Return why an image could not be read, as a phrase for the end of a message."""
    if isinstance(error, FileNotFoundError):
        return "the file does not exist"
    if isinstance(error, UnidentifiedImageError):
        return "not an image that Pillow can read"
    return str(error).rstrip(". ") or type(error).__name__
