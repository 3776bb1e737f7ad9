"""Test images for comparing a model with PyTorch; the same in every run."""

import numpy as np

from export.arrays import Images
from zoo.networks.preprocessing import Preprocessing


def noise(preprocessing: Preprocessing, batch: int) -> Images:
    """Return `batch` images of uniform noise."""
    channels, height, width = preprocessing.input_size
    return np.random.default_rng(batch).integers(0, 256, (batch, height, width, channels), np.uint8)


def probes(preprocessing: Preprocessing) -> Images:
    """Return five images: two of noise, a black one, one that is half white, and a ramp.

    Noise alone does not distinguish units that it never activates, or the input and output of a clamp that it never
    reaches.
    """
    _, height, width = preprocessing.input_size
    images = np.concatenate([noise(preprocessing, 2), np.zeros_like(noise(preprocessing, 3))])
    images[3, :, : (width + 1) // 2] = 255
    images[4] = np.linspace(0, 255, height * width).reshape(height, width, 1)
    return images


def range_ends(preprocessing: Preprocessing) -> dict[str, Images]:
    """Return a black, a white and a grey image, and noise of only 0 and 255, one row each."""
    blank = np.zeros_like(noise(preprocessing, 1))
    constants = {"black": blank, "white": blank + 255, "constant": blank + 128}
    return {**constants, "saturated": noise(preprocessing, 1) // 128 * 255}


def extremes(preprocessing: Preprocessing) -> Images:
    """Return images of 0 and 255: noise, only the first channel, only the others, white, columns of random colours."""
    images = noise(preprocessing, 5) // 128 * 255
    images[1:3] = 0
    images[1, ..., 0] = images[2, ..., 1:] = 255
    images[3] = 255
    images[4] = images[4, :1]
    return images
