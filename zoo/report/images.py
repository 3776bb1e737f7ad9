"""What a network saw, for a page: images as data URIs, signals as curves."""

import base64
import io
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from zoo.data.splits import Split

MOST_PIXELS = 192  # along an edge
MOST_EXACT_PIXELS = 96  # larger images are compressed with loss
CURVE_WIDTH, CURVE_HEIGHT = 120, 60


@dataclass(frozen=True)
class ReportImage:
    """A `source` for an image of `width` by `height` pixels; or the points of curves, one a channel, in CURVE units."""

    source: str = ""
    width: int = 0
    height: int = 0
    curves: tuple[str, ...] = ()


def images_of(split: Split, chosen: Tensor) -> list[ReportImage]:
    """The images of these indices (N,) as the network saw them."""
    if len(chosen) == 0:
        return []
    (images,) = split.batches([chosen])
    return [_signal(image) if image.shape[0] == 1 else _image(image) for image in images]


def _signal(image: Tensor) -> ReportImage:
    """Of uint8 (1, L, C)."""
    step = CURVE_WIDTH / max(1, image.shape[1] - 1)
    heights = CURVE_HEIGHT * (1 - image[0].T.double() / 255)  # (C, L)
    curves = [" ".join(f"{place * step:.1f},{y:.1f}" for place, y in enumerate(row)) for row in heights.tolist()]
    return ReportImage(curves=tuple(curves))


def _image(image: Tensor) -> ReportImage:
    """Of uint8 (H, W, C); channels that are neither grey nor RGB are shown as their mean."""
    pixels = image if image.shape[2] in (1, 3) else image.float().mean(dim=2, keepdim=True).round().to(torch.uint8)
    array = pixels.numpy()
    thumbnail = Image.fromarray(array[:, :, 0] if array.shape[2] == 1 else np.ascontiguousarray(array))
    exact = max(thumbnail.size) <= MOST_EXACT_PIXELS
    thumbnail.thumbnail((MOST_PIXELS, MOST_PIXELS))
    written = io.BytesIO()
    thumbnail.save(written, "PNG" if exact else "JPEG", **({} if exact else {"quality": 90}))
    kind = "png" if exact else "jpeg"
    code = base64.b64encode(written.getvalue()).decode()
    return ReportImage(f"data:image/{kind};base64,{code}", *thumbnail.size)
