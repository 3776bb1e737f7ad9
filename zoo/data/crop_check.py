"""A warning if the centre crop removes much of images with another aspect ratio than the network's input."""

import logging
from dataclasses import dataclass

import torch
from PIL import Image

from zoo.data.dataset import Dataset

SAMPLED_IMAGES = 9  # training images, evenly spread
MIN_REPORTED_SHARE = 0.1  # of an image's area

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CroppedShareView:
    """A view that returns one grey pixel: the share of the area, in 255ths, that a crop to width:height removes."""

    width: int
    height: int

    def __call__(self, image: Image.Image, index: int) -> Image.Image:
        sides = (image.width * self.height, image.height * self.width)
        return Image.new("L", (1, 1), round(255 * (1 - min(sides) / max(sides))))


def cropped_share(dataset: Dataset) -> float:
    """Return the share of its area that a typical training image loses to the centre crop.

    The median over SAMPLED_IMAGES images; 0 if the preprocessing does not crop.
    """
    if dataset.preprocessing.crop_mode != "center":
        return 0.0
    _, height, width = dataset.input_size
    count = len(dataset.train)
    indices = torch.linspace(0, count - 1, min(SAMPLED_IMAGES, count)).long()
    (pixels,) = dataset.train.batches([indices], CroppedShareView(width, height))  # (N, 1, 1, 1)
    return float(pixels.median()) / 255


def warn_if_cropped(dataset: Dataset) -> None:
    """Log one warning if the centre crop removes at least MIN_REPORTED_SHARE of a typical training image."""
    share = cropped_share(dataset)
    if share >= MIN_REPORTED_SHARE:
        _, height, width = dataset.input_size
        _log.warning(
            f"the centre crop to the network's shape, {height}x{width}, removes {share:.0%} of a typical image at its "
            "edges; docs/data.md describes how to keep them"
        )
