"""Images to compare by, the same in every run."""

import numpy as np
import numpy.typing as npt

from zoo.networks.preprocessing import Preprocessing

Images = npt.NDArray[np.uint8]


def noise(preprocessing: Preprocessing, batch: int) -> Images:
    """Return `batch` images of uniform noise, uint8 (N, H, W, C)."""
    channels, height, width = preprocessing.input_size
    return np.random.default_rng(batch).integers(0, 256, (batch, height, width, channels), np.uint8)


def telling(preprocessing: Preprocessing) -> Images:
    """Return five images on which values that are equal for noise differ: two of noise, black, half white, a ramp.

    Noise alone leaves a unit that is dead on it, or a clamp that it does not reach, looking like something else.
    """
    _, height, width = preprocessing.input_size
    images = np.concatenate([noise(preprocessing, 2), np.zeros_like(noise(preprocessing, 3))])
    images[3, :, : (width + 1) // 2] = 255
    images[4] = np.linspace(0, 255, height * width).reshape(height, width, 1)
    return images


def far(preprocessing: Preprocessing) -> Images:
    """Return images of 0 and 255 alone: noise, the first channel, all others, white, columns of colours."""
    images = noise(preprocessing, 5) // 128 * 255
    images[1:3] = 0
    images[1, ..., 0] = images[2, ..., 1:] = 255
    images[3] = 255
    images[4] = images[4, :1]
    return images
