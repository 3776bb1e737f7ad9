"""The built-in dataset `digits`: scikit-learn's 1,797 handwritten digits of 8x8 pixels."""

import numpy as np
import torch

from zoo.data.dataset import Dataset
from zoo.data.splits import MemorySplit
from zoo.networks.preprocessing import Preprocessing

# The splits have their own seed, so a run's seed never moves an image from one split to another.
SPLIT_SEED = 0
TEST_IMAGES = 360
VAL_IMAGES = 137


def open_digits(*_: object) -> Dataset:
    """Return the dataset, split into 1300 training, 137 validation and 360 test images, stratified by class."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = np.rint(digits.images * (255 / 16)).astype(np.uint8)[..., np.newaxis]  # (1797, 8, 8, 1)
    targets = digits.target.astype(np.int64)

    def split(indices: np.ndarray) -> MemorySplit:
        return MemorySplit(torch.from_numpy(images[indices]), torch.from_numpy(targets[indices]))

    rest, test = _stratified(np.arange(len(targets)), targets, TEST_IMAGES)
    train, val = _stratified(rest, targets, VAL_IMAGES)
    return Dataset(
        name="digits",
        labels=tuple(str(digit) for digit in range(10)),
        preprocessing=Preprocessing(input_size=(1, 8, 8), mean=(0.305,), std=(0.376,)),
        train=split(train),
        val=split(val),
        test=split(test),
        caveat="The 13 writers are shared between the splits, so this accuracy does not apply to unseen writers.",
    )


def _stratified(indices: np.ndarray, targets: np.ndarray, held_out: int) -> list[np.ndarray]:
    """Split `indices` into two, stratified by class; the second has `held_out` images."""
    from sklearn.model_selection import train_test_split

    pair: list[np.ndarray] = train_test_split(
        indices, test_size=held_out, stratify=targets[indices], random_state=SPLIT_SEED
    )
    return pair
