"""The data sets of other libraries, split by split, with a val and a test whatever the library has."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from zoo.data.augmentation import Augmentation, PlainView
from zoo.data.holdout import divide, divide_labels
from zoo.data.splits import ImageSource, ShelfSplit
from zoo.data.targets import task_of
from zoo.errors import DataError
from zoo.networks.preprocessing import Preprocessing

PHOTOS = Augmentation(flip=0.5, min_crop=0.35)


@dataclass(frozen=True, eq=False)
class Part:
    """Those images of a shelf that `indices` number, with their targets."""

    shelf: ImageSource
    shelf_key: str
    indices: tuple[int, ...]
    targets: Tensor

    def only(self, places: Sequence[int]) -> "Part":
        """Some of them."""
        chosen = tuple(self.indices[place] for place in places)
        return Part(self.shelf, self.shelf_key, chosen, self.targets[list(places)])


@dataclass(frozen=True, eq=False)
class LibraryDataset:
    """A library's data set: its labels, and the parts train, val and test."""

    labels: tuple[str, ...]
    parts: Mapping[str, Part]
    augmentation: Augmentation = PHOTOS
    skipped: tuple[str, ...] = ()

    def split(self, name: str, rule: Preprocessing, workers: int) -> ShelfSplit:
        """The images of one split for a network of that preprocessing."""
        part = self.parts[name]
        return ShelfSplit(
            part.shelf, part.shelf_key, part.indices, part.targets, rule.channels, PlainView(rule), workers
        )


def with_all_splits(parts: Mapping[str, Part], labels: Sequence[str]) -> dict[str, Part]:
    """The same parts, and what is missing of val and test held out of train, by hashes of the images' numbers.

    Raises:
        DataError: there is no train, or it has too few classes, or too few images to divide.
    """
    if len(labels) < 2:
        raise DataError(f"the data have {len(labels)} classes ({', '.join(labels) or 'none'}); a classifier needs two")
    if "train" not in parts:
        raise DataError(f"there is nothing to train on: the splits are {', '.join(parts) or 'none'}")
    train, missing = parts["train"], [name for name in ("val", "test") if name not in parts]
    keys = [str(index) for index in train.indices]
    if task_of(train.targets) == "multi-label":
        divided = divide_labels(keys, train.targets, missing)
    else:
        divided = divide(keys, train.targets.tolist(), labels, missing)
    return {**parts, **{name: train.only(places) for name, places in divided.items()}}
