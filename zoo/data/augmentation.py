"""Random changes to training images, by torchvision's and timm's own transforms.

`draw_shifts` draws from torch's generator, which training seeds at every step. A `TrainingView` seeds all generators
for each image anew and gives them back, so that an image looks the same whichever process prepares it.
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
    """How training images differ from those of an evaluation.

    A share `flip` is mirrored; each is cropped to a random part, at least `min_crop` of its area (1: as in evaluation).
    `rand_augment` is the magnitude of RandAugment's changes, 0 for none; its two operations an image are timm's.
    """

    flip: float = 0.0
    min_crop: float = 1.0
    rand_augment: int = 0

    @property
    def is_none(self) -> bool:
        return self == Augmentation()


@dataclass(frozen=True)
class PlainView:
    """An image as an evaluation sees it: resized and cropped as timm does."""

    rule: Preprocessing

    def __call__(self, image: Image.Image, index: int) -> Image.Image:
        framed: Image.Image = self._framing(image)
        return framed

    @cached_property
    def _framing(self) -> Callable[[Any], Any]:
        return framing(self.rule)


@dataclass(frozen=True)
class TrainingView:
    """An image as the network sees it in one epoch: a function of the image, the seed, the epoch and its index."""

    rule: Preprocessing
    augmentation: Augmentation
    seed: int
    epoch: int

    def __call__(self, image: Image.Image, index: int) -> Image.Image:
        with seeded(self.seed, self.epoch, index):
            changed: Image.Image = self._change(image)
        return changed

    @cached_property
    def _change(self) -> Callable[[Any], Any]:
        magnitude = self.augmentation.rand_augment
        first, second, _ = transforms_imagenet_train(
            self.rule.input_size[1:],
            scale=(self.augmentation.min_crop, 1.0),
            hflip=self.augmentation.flip,
            color_jitter=0.0,
            auto_augment=f"rand-m{magnitude}-n2-mstd0.5-inc1" if magnitude else None,
            interpolation=self.rule.interpolation,
            mean=self.rule.mean,
            separate=True,
        )
        crop, *others = first.transforms
        frame = framing(self.rule) if self.augmentation.min_crop == 1 else crop
        change: Callable[[Any], Any] = v2.Compose([frame, *others, *second.transforms])
        return change


def framing(rule: Preprocessing) -> Callable[[Any], Any]:
    """Timm's evaluation transform up to the pixels."""
    whole = transforms_imagenet_eval(
        rule.input_size[1:],
        crop_pct=rule.crop_pct,
        crop_mode=rule.crop_mode,
        interpolation=rule.interpolation,
        mean=rule.mean,
        normalize=False,
    )
    frame: Callable[[Any], Any] = v2.Compose(whole.transforms[:-1])  # the last one makes a tensor
    return frame


def draw_shifts(count: int, max_shift_px: int) -> Tensor:
    """Where to move each of so many images: int64 (N, 2), -max_shift_px..max_shift_px pixels down and right."""
    return torch.randint(-max_shift_px, max_shift_px + 1, (count, 2))


def shift(images: Tensor, shifts: Tensor) -> Tensor:
    """Move each of the uint8 (N, H, W, C) images by its row of `shifts`, (N, 2), pixels down and right.

    What moves in is 0. An axis of length 1 stays: a signal, an image of height 1, moves along its length only.
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
    """Let `key` alone decide what is drawn inside; the generators of this process go on afterwards as if unused."""
    ours, numpys, torchs = random.getstate(), np.random.get_state(), torch.get_rng_state()
    word = int(np.random.SeedSequence(key).generate_state(1)[0])
    random.seed(word)
    np.random.seed(word)
    torch.default_generator.manual_seed(word)
    try:
        yield
    finally:
        random.setstate(ours)
        np.random.set_state(numpys)
        torch.set_rng_state(torchs)
