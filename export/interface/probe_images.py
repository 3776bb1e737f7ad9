"""Pictures to compare by, the same in every run."""

import numpy as np
import numpy.typing as npt

from zoo.networks.preprocessing import Preprocessing

Pictures = npt.NDArray[np.uint8]


def noise(preprocessing: Preprocessing, batch: int) -> Pictures:
    """Return `batch` pictures of uniform noise, uint8 (N, H, W, C)."""
    channels, height, width = preprocessing.input_size
    return np.random.default_rng(batch).integers(0, 256, (batch, height, width, channels), np.uint8)


def telling(preprocessing: Preprocessing) -> Pictures:
    """Return five pictures on which values that are equal for noise differ: two of noise, black, half white, a ramp.

    Noise alone leaves a unit that is dead on it, or a clamp that it does not reach, looking like something else.
    """
    _, height, width = preprocessing.input_size
    pictures = np.concatenate([noise(preprocessing, 2), np.zeros_like(noise(preprocessing, 3))])
    pictures[3, :, : (width + 1) // 2] = 255
    pictures[4] = np.linspace(0, 255, height * width).reshape(height, width, 1)
    return pictures


def far(preprocessing: Preprocessing) -> Pictures:
    """Return pictures of 0 and 255 alone: noise, the first channel, all others, white, columns of colours."""
    pictures = noise(preprocessing, 5) // 128 * 255
    pictures[1:3] = 0
    pictures[1, ..., 0] = pictures[2, ..., 1:] = 255
    pictures[3] = 255
    pictures[4] = pictures[4, :1]
    return pictures
