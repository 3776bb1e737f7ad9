"""K-fold splits: each image of train and val is held out once; test does not change.

The folds depend on the data only, never on a run's seed.
"""

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from zoo.data.dataset import Dataset
from zoo.data.subset import Subset
from zoo.errors import SettingsError

FOLDS_SEED = 0


def fold_of(dataset: Dataset, fold: int, folds: int) -> Dataset:
    """Return the dataset with fold number `fold`, counted from 1, as val and all other folds as train.

    Raises:
        SettingsError: a class has fewer images than there are folds.
    """
    held_out = kfold_indices(dataset, folds)[fold - 1]
    indices = torch.arange(len(dataset.train) + len(dataset.val))
    remaining = indices[~torch.isin(indices, held_out)]
    splits = (dataset.train, dataset.val)
    return replace(dataset, train=Subset(splits, remaining), val=Subset(splits, held_out))


def kfold_indices(dataset: Dataset, folds: int) -> list[Tensor]:
    """Return the indices of each fold's images, in train followed by val.

    The folds are stratified by class; folds of multi-label data are drawn without regard to the labels.

    Raises:
        SettingsError: a class has fewer images than there are folds.
    """
    from sklearn.model_selection import KFold, StratifiedKFold

    targets = joined_targets(dataset)
    multi_label = targets.ndim > 1
    if not multi_label:
        _check_enough_images(dataset, targets, folds)
    splitter = (KFold if multi_label else StratifiedKFold)(folds, shuffle=True, random_state=FOLDS_SEED)
    return [torch.from_numpy(held_out) for _, held_out in splitter.split(np.zeros(len(targets)), targets.numpy())]


def joined_targets(dataset: Dataset) -> Tensor:
    """Return the targets of train followed by those of val."""
    return torch.cat([dataset.train.targets, dataset.val.targets])


def _check_enough_images(dataset: Dataset, targets: Tensor, folds: int) -> None:
    counts = torch.bincount(targets, minlength=len(dataset.labels)).tolist()
    fewest, label = min(zip(counts, dataset.labels, strict=True))
    if fewest < folds:
        raise SettingsError(
            f"the class '{label}' of {dataset.name} has {fewest} images in train and val; {folds} folds need one each"
        )
