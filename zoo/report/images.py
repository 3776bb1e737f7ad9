"""The network's input images for a report: images as data URIs, signals as curves."""

import base64
import io
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from zoo.data.splits import Split

MAX_PIXELS = 192  # along an edge
MAX_LOSSLESS_PIXELS = 96  # along an edge; larger images are stored as JPEG
CURVE_WIDTH, CURVE_HEIGHT = 120, 60


@dataclass(frozen=True)
class ReportImage:
    """An image, or the curves of a signal.

    Attributes:
        source: data URI of the image; empty for a signal.
        width: of the image, in pixels.
        height: of the image, in pixels.
        curves: SVG points of a signal, one string per channel, within CURVE_WIDTH by CURVE_HEIGHT.
    """

    source: str = ""
    width: int = 0
    height: int = 0
    curves: tuple[str, ...] = ()


def images_of(split: Split, chosen: Tensor) -> list[ReportImage]:
    """Return the images at the indices `chosen`, (N,), as the network received them before normalisation."""
    if len(chosen) == 0:
        return []
    (images,) = split.batches([chosen])
    return [_signal(image) if image.shape[0] == 1 else _image(image) for image in images]


def _signal(image: Tensor) -> ReportImage:
    """Convert a signal, uint8 (1, L, C)."""
    step = CURVE_WIDTH / max(1, image.shape[1] - 1)
    heights = CURVE_HEIGHT * (1 - image[0].T.double() / 255)  # (C, L)
    curves = [" ".join(f"{index * step:.1f},{y:.1f}" for index, y in enumerate(row)) for row in heights.tolist()]
    return ReportImage(curves=tuple(curves))


def _image(image: Tensor) -> ReportImage:
    """Convert an image, uint8 (H, W, C); unless C is 1 or 3, the mean of the channels is shown."""
    pixels = image if image.shape[2] in (1, 3) else image.float().mean(dim=2, keepdim=True).round().to(torch.uint8)
    array = pixels.numpy()
    thumbnail = Image.fromarray(array[:, :, 0] if array.shape[2] == 1 else np.ascontiguousarray(array))
    lossless = max(thumbnail.size) <= MAX_LOSSLESS_PIXELS
    thumbnail.thumbnail((MAX_PIXELS, MAX_PIXELS))
    buffer = io.BytesIO()
    thumbnail.save(buffer, "PNG" if lossless else "JPEG", **({} if lossless else {"quality": 90}))
    kind = "png" if lossless else "jpeg"
    encoded = base64.b64encode(buffer.getvalue()).decode()
    return ReportImage(f"data:image/{kind};base64,{encoded}", *thumbnail.size)
