"""Random augmentation of training images, with torchvision's and timm's transforms.

`draw_shifts` draws from torch's global generator, which training seeds at every step. `TrainingView` seeds all
generators for each image and restores them, so the result does not depend on the process that prepares the image.
"""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from timm.data.transforms_factory import transforms_imagenet_eval, transforms_imagenet_train
from torch import Tensor
from torchvision.transforms import v2

from zoo.networks.preprocessing import Preprocessing


@dataclass(frozen=True)
class Augmentation:
    """Random changes to training images; evaluation images are never changed.

    Attributes:
        flip: probability of mirroring an image horizontally, 0..1.
        min_crop: smallest area of the random crop as a share of the image, above 0; 1: crop as in evaluation.
        rand_augment: magnitude of timm's RandAugment, two operations per image, 0..10; 0: none.
    """

    flip: float = 0.0
    min_crop: float = 1.0
    rand_augment: int = 0

    @property
    def is_none(self) -> bool:
        return self == Augmentation()


NO_AUGMENTATION = Augmentation()
PHOTOS = Augmentation(flip=0.5, min_crop=0.35)


@dataclass(frozen=True)
class EvalView:
    """Resize and crop an image for evaluation, as timm does."""

    preprocessing: Preprocessing

    def __call__(self, image: Image.Image, index: int) -> Image.Image:
        resized: Image.Image = self._transform(image)
        return resized

    @cached_property
    def _transform(self) -> Callable[[Any], Any]:
        return resize_and_crop(self.preprocessing)


@dataclass(frozen=True)
class TrainingView:
    """Augment an image for one epoch; the result depends on the image, its index, the seed and the epoch only."""

    preprocessing: Preprocessing
    augmentation: Augmentation
    seed: int
    epoch: int

    def __call__(self, image: Image.Image, index: int) -> Image.Image:
        with seeded(self.seed, self.epoch, index):
            augmented: Image.Image = self._transform(image)
        return augmented

    @cached_property
    def _transform(self) -> Callable[[Any], Any]:
        magnitude = self.augmentation.rand_augment
        geometric, colour, _ = transforms_imagenet_train(
            self.preprocessing.input_size[1:],
            scale=(self.augmentation.min_crop, 1.0),
            hflip=self.augmentation.flip,
            color_jitter=0.0,
            auto_augment=f"rand-m{magnitude}-n2-mstd0.5-inc1" if magnitude else None,
            interpolation=self.preprocessing.interpolation,
            mean=self.preprocessing.mean,
            separate=True,
        )
        random_crop, *flips = geometric.transforms
        crop = resize_and_crop(self.preprocessing) if self.augmentation.min_crop == 1 else random_crop
        transform: Callable[[Any], Any] = v2.Compose([crop, *flips, *colour.transforms])
        return transform


def resize_and_crop(preprocessing: Preprocessing) -> Callable[[Any], Any]:
    """Return timm's evaluation transform without its last step, the conversion to a tensor."""
    steps = transforms_imagenet_eval(
        preprocessing.input_size[1:],
        crop_pct=preprocessing.crop_pct,
        crop_mode=preprocessing.crop_mode,
        interpolation=preprocessing.interpolation,
        mean=preprocessing.mean,
        normalize=False,
    )
    transform: Callable[[Any], Any] = v2.Compose(steps.transforms[:-1])
    return transform


def draw_shifts(count: int, max_shift_px: int) -> Tensor:
    """Draw a random shift for each of `count` images: int64 (N, 2), -max_shift_px..max_shift_px pixels down and right.

    Uses torch's global generator.
    """
    return torch.randint(-max_shift_px, max_shift_px + 1, (count, 2))


def shift(images: Tensor, shifts: Tensor) -> Tensor:
    """Shift each of the uint8 (N, H, W, C) images by its row of `shifts`, (N, 2), in pixels down and right.

    Uncovered pixels become 0. An axis of length 1 does not move: a signal, an image of height 1, is shifted along its
    length only.
    """
    count, height, width, _ = images.shape
    margin = int(shifts.abs().max()) if count else 0
    down, right = (shifts * torch.tensor([height > 1, width > 1])).T
    rows = (margin + torch.arange(height) - down[:, None])[:, :, None]  # (N, H, 1)
    columns = (margin + torch.arange(width) - right[:, None])[:, None, :]  # (N, 1, W)
    padded = F.pad(images, (0, 0, margin, margin, margin, margin))
    return padded[torch.arange(count)[:, None, None], rows, columns]


@contextmanager
def seeded(*key: int) -> Iterator[None]:
    """Seed Python's, NumPy's and torch's generators from `key` inside the block, and restore their states after it."""
    python_state, numpy_state, torch_state = random.getstate(), np.random.get_state(), torch.get_rng_state()
    seed = int(np.random.SeedSequence(key).generate_state(1)[0])
    random.seed(seed)
    np.random.seed(seed)
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)
        torch.set_rng_state(torch_state)
