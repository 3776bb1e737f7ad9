"""A dataset with its three splits, and stored images that become one once the network's input size is known."""

from dataclasses import dataclass
from typing import Protocol, get_args

from zoo.data.augmentation import NO_AUGMENTATION, Augmentation
from zoo.data.splits import Split
from zoo.data.targets import Task, task_of
from zoo.errors import DataError
from zoo.networks.preprocessing import Preprocessing
from zoo.settings import SplitName

TASK_DESCRIPTIONS: dict[Task, str] = {
    "single-label": "each image has exactly one class",
    "multi-label": "each image has any number of labels",
}


class DataSource(Protocol):
    """Labelled images with known classes; `for_network` turns them into a `Dataset`.

    `input_size` is the (C, H, W) of data with a fixed size, None for images that are resized to the network's input.
    """

    @property
    def name(self) -> str: ...

    @property
    def labels(self) -> tuple[str, ...]: ...

    @property
    def input_size(self) -> tuple[int, int, int] | None: ...

    def for_network(self, preprocessing: Preprocessing) -> "Dataset":
        """Return the dataset for a network with this preprocessing; data with a fixed size keep their own."""
        ...


class ImageCollection(Protocol):
    """The three splits of stored images, which are resized to a network's input. Most openers return one."""

    @property
    def labels(self) -> tuple[str, ...]: ...

    @property
    def augmentation(self) -> Augmentation: ...

    @property
    def skipped(self) -> tuple[str, ...]: ...

    def split(self, name: str, preprocessing: Preprocessing, workers: int) -> Split:
        """Return the images of one split, preprocessed for a network by `workers` extra processes."""
        ...


@dataclass(frozen=True)
class Dataset:
    """Three splits of labelled images with the same preprocessing.

    Attributes:
        name: the dataset's name, without paths of this machine.
        labels: the names of the classes, by index.
        preprocessing: the preprocessing of every split.
        train: the images to train on.
        val: the images on which the best epoch is chosen.
        test: the images of the final evaluation.
        augmentation: the default augmentation of training images, used where the settings have none.
        skipped: unreadable files that were left out, each with its reason.
        caveat: a limitation of measurements on this dataset, as a sentence; empty: none.
    """

    name: str
    labels: tuple[str, ...]
    preprocessing: Preprocessing
    train: Split
    val: Split
    test: Split
    augmentation: Augmentation = NO_AUGMENTATION
    skipped: tuple[str, ...] = ()
    caveat: str = ""

    @property
    def input_size(self) -> tuple[int, int, int]:
        return self.preprocessing.input_size

    @property
    def task(self) -> Task:
        return task_of(self.train.targets)

    def for_network(self, preprocessing: Preprocessing) -> "Dataset":
        return self

    def split(self, name: SplitName) -> Split:
        """Return the split of that name.

        Raises:
            DataError: there is no such split.
        """
        splits = {"train": self.train, "val": self.val, "test": self.test}
        if name not in splits:
            raise DataError(f"the splits are {', '.join(get_args(SplitName))}; got '{name}'")
        return splits[name]

    def check_fits(self, labels: tuple[str, ...], preprocessing: Preprocessing, task: Task = "single-label") -> None:
        """Require that a network with these labels, preprocessing and task can be evaluated on this dataset.

        Raises:
            DataError: the task, the classes or the image sizes differ.
        """
        if task != self.task:
            raise DataError(f"the network is {task}; {self.name} is {self.task}: {TASK_DESCRIPTIONS[self.task]}")
        if labels != self.labels:
            raise DataError(f"the network has {_abbreviated(labels)}; {self.name} has {_abbreviated(self.labels)}")
        expected, actual = preprocessing.input_size, self.preprocessing.input_size
        if expected != actual:
            raise DataError(
                f"the network expects images of (channels, height, width) {expected}; {self.name} has {actual}"
            )


@dataclass(frozen=True)
class StoredImages:
    """Images of a folder or a library, before the network's input size is known."""

    name: str
    images: ImageCollection
    workers: int
    input_size: None = None

    @property
    def labels(self) -> tuple[str, ...]:
        return self.images.labels

    def for_network(self, preprocessing: Preprocessing) -> Dataset:
        train, val, test = (self.images.split(name, preprocessing, self.workers) for name in get_args(SplitName))
        augmentation, skipped = self.images.augmentation, self.images.skipped
        return Dataset(self.name, self.labels, preprocessing, train, val, test, augmentation, skipped)


def _abbreviated(labels: tuple[str, ...]) -> str:
    return f"{len(labels)} classes ({', '.join(labels[:3])}, ...)"
