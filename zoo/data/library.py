"""Datasets of other libraries; val and test are held out of train if the library has none."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from zoo.data.augmentation import PHOTOS, Augmentation, EvalView
from zoo.data.holdout import holdout_split, holdout_split_multilabel
from zoo.data.splits import ImageSource, LibrarySplit
from zoo.data.targets import task_of
from zoo.errors import DataError
from zoo.networks.preprocessing import Preprocessing


@dataclass(frozen=True, eq=False)
class SplitIndices:
    """One split of a library's dataset.

    Attributes:
        source: the library's images, by index.
        source_key: a string that changes with the images of `source`, such as a hash.
        indices: the indices of the split's images in `source`.
        targets: their int64 targets: classes (N,) or labels (N, labels).
    """

    source: ImageSource
    source_key: str
    indices: tuple[int, ...]
    targets: Tensor

    def select(self, positions: Sequence[int]) -> "SplitIndices":
        """Return the images at these positions in `indices`."""
        indices = tuple(self.indices[position] for position in positions)
        return SplitIndices(self.source, self.source_key, indices, self.targets[list(positions)])


@dataclass(frozen=True, eq=False)
class LibraryDataset:
    """A library's dataset.

    Attributes:
        labels: the names of the classes, by index.
        splits: train, val and test.
        augmentation: the default augmentation of training images.
        skipped: bad images that were left out; libraries report none.
    """

    labels: tuple[str, ...]
    splits: Mapping[str, SplitIndices]
    augmentation: Augmentation = PHOTOS
    skipped: tuple[str, ...] = ()

    def split(self, name: str, preprocessing: Preprocessing, workers: int) -> LibrarySplit:
        """Return the images of one split, preprocessed for a network by `workers` extra processes."""
        split = self.splits[name]
        return LibrarySplit(
            split.source,
            split.source_key,
            split.indices,
            split.targets,
            preprocessing.channels,
            EvalView(preprocessing),
            workers,
        )


def with_all_splits(splits: Mapping[str, SplitIndices], labels: Sequence[str]) -> dict[str, SplitIndices]:
    """Return the splits, with a missing val or test held out of train by hashes of the images' indices.

    Raises:
        DataError: there is no train split, fewer than two classes, or a class has too few images.
    """
    if len(labels) < 2:
        raise DataError(f"the dataset has {len(labels)} classes ({', '.join(labels) or 'none'}); at least 2 are needed")
    if "train" not in splits:
        raise DataError(f"the dataset has no train split; its splits are {', '.join(splits) or 'none'}")
    train, missing = splits["train"], [name for name in ("val", "test") if name not in splits]
    keys = [str(index) for index in train.indices]
    if task_of(train.targets) == "multi-label":
        held_out = holdout_split_multilabel(keys, train.targets, missing)
    else:
        held_out = holdout_split(keys, train.targets.tolist(), labels, missing)
    return {**splits, **{name: train.select(positions) for name, positions in held_out.items()}}
