"""What a centre crop leaves out of images that do not have the network's shape."""

import logging
from dataclasses import dataclass

import torch
from PIL import Image

from zoo.data.registry import Dataset

LOOKED_AT = 9  # training images, evenly spread
WORTH_TELLING = 0.1  # of an image's area

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LeftOutView:
    """An image as one grey pixel: the share of it, in 255ths, that a crop to the shape of `width` x `height` loses."""

    width: int
    height: int

    def __call__(self, image: Image.Image, index: int) -> Image.Image:
        sides = (image.width * self.height, image.height * self.width)
        return Image.new("L", (1, 1), round(255 * (1 - min(sides) / max(sides))))


def share_left_out(data: Dataset) -> float:
    """The share of its area that a typical training image, the median of a few, loses to the network's shape."""
    if data.preprocessing.crop_mode != "center":
        return 0.0
    _, height, width = data.input_size
    chosen = torch.linspace(0, len(data.train) - 1, min(LOOKED_AT, len(data.train))).long()
    (pixels,) = data.train.batches([chosen], LeftOutView(width, height))  # (N, 1, 1, 1)
    return float(pixels.median()) / 255


def warn_if_cropped(data: Dataset) -> None:
    """Say in one line that much of the images is cut off, where it is."""
    share = share_left_out(data)
    if share >= WORTH_TELLING:
        _, height, width = data.input_size
        _log.warning(
            f"most images are not of the network's shape, {height}x{width}: a centre crop leaves out {share:.0%} of a "
            "typical one, at its edges; docs/data.md says how to keep it"
        )
