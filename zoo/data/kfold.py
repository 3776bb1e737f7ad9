"""Data in K folds: each image of train and val is held out once; test stays what it is.

Which image is in which fold follows from the data alone, never from a run's seed.
"""

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from zoo.data.registry import Dataset
from zoo.data.subset import Subset
from zoo.errors import SettingsError

FOLDS_SEED = 0


def fold_of(data: Dataset, fold: int, folds: int) -> Dataset:
    """`data` with the fold of that number, from 1, as val, and all others as train.

    Raises:
        SettingsError: a class has fewer images than there are folds.
    """
    held_out = divide(data, folds)[fold - 1]
    every = torch.arange(len(data.train) + len(data.val))
    kept = every[~torch.isin(every, held_out)]
    parts = (data.train, data.val)
    return replace(data, train=Subset(parts, kept), val=Subset(parts, held_out))


def divide(data: Dataset, folds: int) -> list[Tensor]:
    """The numbers of each fold's images, where val's are counted on from train's.

    Each class is spread evenly; where an image may have several labels, the folds are drawn without regard to them.

    Raises:
        SettingsError: a class has fewer images than there are folds.
    """
    from sklearn.model_selection import KFold, StratifiedKFold

    targets = joined_targets(data)
    several = targets.ndim > 1
    if not several:
        _check_enough(data, targets, folds)
    kind = KFold if several else StratifiedKFold
    parts = kind(folds, shuffle=True, random_state=FOLDS_SEED).split(np.zeros(len(targets)), targets.numpy())
    return [torch.from_numpy(held_out) for _, held_out in parts]


def joined_targets(data: Dataset) -> Tensor:
    """The targets of train, then of val."""
    return torch.cat([data.train.targets, data.val.targets])


def _check_enough(data: Dataset, targets: Tensor, folds: int) -> None:
    counts = torch.bincount(targets, minlength=len(data.labels)).tolist()
    least, label = min(zip(counts, data.labels, strict=True))
    if least < folds:
        raise SettingsError(
            f"the class '{label}' of {data.name} has {least} images in train and val; {folds} folds need one each"
        )
