"""Data sets that fit in memory, with splits that never change."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import get_args

import numpy as np
import torch
from torch import Tensor

from zoo.errors import DataError
from zoo.preprocessing import Preprocessing
from zoo.settings import SplitName

# The splits' own constants: a run's seed never moves a picture from one split to another.
DIGITS_TEST_IMAGES = 360
DIGITS_VAL_IMAGES = 137
DIGITS_SPLIT_SEED = 0
SIGNALS_PER_KIND = {"train": 150, "val": 25, "test": 60}
SIGNAL_SEEDS = {"train": 1, "val": 2, "test": 3}


@dataclass(frozen=True)
class Split:
    """`images` is uint8 (N, H, W, C), `targets` the int64 class index of each, (N,).

    A signal of length L is an image of height 1: (N, 1, L, C).
    """

    images: Tensor
    targets: Tensor

    def __len__(self) -> int:
        return len(self.targets)


@dataclass(frozen=True)
class Dataset:
    """`labels` name the classes by index; `preprocessing` fits the training split."""

    name: str
    labels: tuple[str, ...]
    preprocessing: Preprocessing
    train: Split
    val: Split
    test: Split

    def split(self, name: SplitName) -> Split:
        """The split of that name.

        Raises:
            DataError: there is no such split.
        """
        splits = {"train": self.train, "val": self.val, "test": self.test}
        if name not in splits:
            raise DataError(f"the splits are {', '.join(get_args(SplitName))}; got '{name}'")
        return splits[name]

    def check_fits(self, labels: tuple[str, ...], preprocessing: Preprocessing) -> None:
        """Require that a net of these labels and this preprocessing can be measured on this data.

        Raises:
            DataError: the classes or the image sizes differ.
        """
        if labels != self.labels:
            raise DataError(f"the net tells apart {_listed(labels)}; {self.name} holds {_listed(self.labels)}")
        expected, own = preprocessing.input_size, self.preprocessing.input_size
        if expected != own:
            raise DataError(f"the net expects images of (channels, height, width) {expected}; {self.name} has {own}")


def load_dataset(name: str) -> Dataset:
    """Load a data set by name.

    Raises:
        DataError: there is none of that name.
    """
    if name not in DATASETS:
        raise DataError(f"no data set is called '{name}'; there are: {', '.join(DATASETS)}")
    return DATASETS[name]()


def _digits() -> Dataset:
    """1,797 handwritten digits of 8x8 pixels, from scikit-learn.

    The 13 writers are shared between the splits, so accuracy here says nothing about a writer never seen.
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    images = np.rint(digits.images * (255 / 16)).astype(np.uint8)[..., np.newaxis]  # (1797, 8, 8, 1)
    targets = digits.target.astype(np.int64)

    def divided(indices: np.ndarray, size: int) -> list[np.ndarray]:
        options = {"stratify": targets[indices], "random_state": DIGITS_SPLIT_SEED}
        parts: list[np.ndarray] = train_test_split(indices, test_size=size, **options)
        return parts

    def split(indices: np.ndarray) -> Split:
        return Split(torch.from_numpy(images[indices]), torch.from_numpy(targets[indices]))

    rest, test = divided(np.arange(len(targets)), DIGITS_TEST_IMAGES)
    train, val = divided(rest, DIGITS_VAL_IMAGES)
    return Dataset(
        name="digits",
        labels=tuple(str(digit) for digit in range(10)),
        preprocessing=Preprocessing(input_size=(1, 8, 8), mean=(0.305,), std=(0.376,)),
        train=split(train),
        val=split(val),
        test=split(test),
    )


def _signal() -> Dataset:
    """1,410 synthetic signals of length 128 and six kinds; see signals.py."""
    from zoo import signals

    def split(name: SplitName) -> Split:
        values, kinds = signals.draw(SIGNALS_PER_KIND[name], SIGNAL_SEEDS[name])
        return Split(torch.from_numpy(values[:, np.newaxis, :, np.newaxis]), torch.from_numpy(kinds))

    return Dataset(
        name="signal",
        labels=tuple(signals.KINDS),
        preprocessing=Preprocessing(input_size=(1, 1, signals.LENGTH), mean=(0.501,), std=(0.15,)),
        train=split("train"),
        val=split("val"),
        test=split("test"),
    )


def _listed(labels: tuple[str, ...]) -> str:
    return f"{len(labels)} classes ({', '.join(labels[:3])}, ...)"


DATASETS: dict[str, Callable[[], Dataset]] = {"digits": _digits, "signal": _signal}
