"""Data sets by name, with splits that never change: embedded ones, folders, and those of other libraries."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, get_args

import numpy as np
import torch

from zoo.data.augmentation import Augmentation
from zoo.data.huggingface import PREFIX as HF
from zoo.data.huggingface import open_hf, subset_of
from zoo.data.image_folder import FolderContents, scan
from zoo.data.library import PHOTOS, LibraryDataset
from zoo.data.paths import FOLDER, folder_of
from zoo.data.splits import MemorySplit, Split
from zoo.data.targets import Task, task_of
from zoo.data.torchvision import PREFIX as TORCHVISION
from zoo.data.torchvision import open_torchvision
from zoo.errors import DataError
from zoo.networks.preprocessing import Preprocessing
from zoo.settings import BadImages, SplitName

NO_AUGMENTATION = Augmentation()
MEANING: dict[Task, str] = {"single-label": "an image has one class", "multi-label": "an image may have many labels"}
KINDS = f"{FOLDER}PATH, {TORCHVISION}NAME and {HF}NAME"

# The splits' own constants: a run's seed never moves an image from one split to another.
DIGITS_TEST_IMAGES = 360
DIGITS_VAL_IMAGES = 137
DIGITS_SPLIT_SEED = 0
SIGNALS_PER_KIND = {"train": 150, "val": 25, "test": 60}
SIGNAL_SEEDS = {"train": 1, "val": 2, "test": 3}


class DataSource(Protocol):
    """Data of known classes; `input_size` is the (C, H, W) it insists on, None where it takes the network's."""

    @property
    def name(self) -> str: ...

    @property
    def labels(self) -> tuple[str, ...]: ...

    @property
    def input_size(self) -> tuple[int, int, int] | None: ...

    def for_net(self, rule: Preprocessing) -> "Dataset":
        """The data as a network of that preprocessing takes it; data that insist on a size keep their own."""
        ...


@dataclass(frozen=True)
class Dataset:
    """`labels` name the classes by index; `preprocessing` is that of every split.

    `augmentation` is what suits the training images where nobody asks for another; `skipped` names bad files.
    `caveat` is a sentence about what a measurement on these data does not tell.
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

    def for_net(self, rule: Preprocessing) -> "Dataset":
        return self

    def split(self, name: SplitName) -> Split:
        """The split of that name.

        Raises:
            DataError: there is no such split.
        """
        splits = {"train": self.train, "val": self.val, "test": self.test}
        if name not in splits:
            raise DataError(f"the splits are {', '.join(get_args(SplitName))}; got '{name}'")
        return splits[name]

    def check_fits(self, labels: tuple[str, ...], preprocessing: Preprocessing, task: Task = "single-label") -> None:
        """Require that a network of these labels and this preprocessing can be measured on this data.

        Raises:
            DataError: the task, the classes or the image sizes differ.
        """
        if task != self.task:
            raise DataError(f"the network is a {task} one, {self.name} is {self.task}: {MEANING[self.task]}")
        if labels != self.labels:
            raise DataError(f"the network tells apart {_listed(labels)}; {self.name} holds {_listed(self.labels)}")
        expected, own = preprocessing.input_size, self.preprocessing.input_size
        if expected != own:
            raise DataError(
                f"the network expects images of (channels, height, width) {expected}; {self.name} has {own}"
            )


@dataclass(frozen=True)
class StoredImages:
    """The images of a folder or of another library, before it is known for which network."""

    name: str
    contents: FolderContents | LibraryDataset
    workers: int
    input_size: None = None

    @property
    def labels(self) -> tuple[str, ...]:
        return self.contents.labels

    def for_net(self, rule: Preprocessing) -> Dataset:
        train, val, test = (self.contents.split(name, rule, self.workers) for name in get_args(SplitName))
        contents = self.contents
        augmentation = contents.augmentation if isinstance(contents, LibraryDataset) else PHOTOS
        return Dataset(self.name, self.labels, rule, train, val, test, augmentation, skipped=contents.skipped)


def load_dataset(name: str) -> Dataset:
    """Load an embedded data set by name.

    Raises:
        DataError: there is none of that name.
    """
    if name not in DATASETS:
        raise DataError(f"no data set is called '{name}'; there are: {', '.join(DATASETS)}, {KINDS}")
    return DATASETS[name]()


def find_data(name: str, *, bad_images: BadImages = "fail", workers: int = 0) -> DataSource:
    """An embedded data set, or stored images, which `workers` further processes decode: see docs/data.md.

    Raises:
        DataError: there is none of that name, or it is not as it should be.
    """
    if name.startswith(FOLDER):
        return StoredImages(redacted_name(name), scan(folder_of(name), bad_images), workers)
    if name.startswith(TORCHVISION):
        return StoredImages(name, open_torchvision(name.removeprefix(TORCHVISION)), workers)
    if name.startswith(HF):
        return StoredImages(redacted_name(name), open_hf(name.removeprefix(HF)), workers)
    return load_dataset(name)


def redacted_name(name: str) -> str:
    """The name of a data set without the way to it on this machine."""
    kind, _, place = name.rpartition(":")
    path, _, column = place.partition("#")
    path, subset = subset_of(path) if kind == HF[:-1] else (path, "")
    is_path = kind == FOLDER[:-1] or (kind == HF[:-1] and Path(path).is_dir())
    more = f"{'@' * bool(subset)}{subset}{'#' * bool(column)}{column}"
    return f"{kind}:{Path(path).resolve().name}{more}" if is_path else name


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

    def split(indices: np.ndarray) -> MemorySplit:
        return MemorySplit(torch.from_numpy(images[indices]), torch.from_numpy(targets[indices]))

    rest, test = divided(np.arange(len(targets)), DIGITS_TEST_IMAGES)
    train, val = divided(rest, DIGITS_VAL_IMAGES)
    return Dataset(
        name="digits",
        labels=tuple(str(digit) for digit in range(10)),
        preprocessing=Preprocessing(input_size=(1, 8, 8), mean=(0.305,), std=(0.376,)),
        train=split(train),
        val=split(val),
        test=split(test),
        caveat="The 13 writers are shared between the splits, so accuracy here says nothing about a writer never seen.",
    )


def _signal() -> Dataset:
    """1,410 synthetic signals of length 128 and six kinds; see signals.py."""
    from zoo.data import synthetic

    def split(name: SplitName) -> MemorySplit:
        values, kinds = synthetic.draw(SIGNALS_PER_KIND[name], SIGNAL_SEEDS[name])
        return MemorySplit(torch.from_numpy(values[:, np.newaxis, :, np.newaxis]), torch.from_numpy(kinds))

    return Dataset(
        name="signal",
        labels=tuple(synthetic.KINDS),
        preprocessing=Preprocessing(input_size=(1, 1, synthetic.LENGTH), mean=(0.501,), std=(0.15,)),
        train=split("train"),
        val=split("val"),
        test=split("test"),
        caveat="The signals are synthetic, drawn by code: accuracy here says nothing about measured signals.",
    )


def _listed(labels: tuple[str, ...]) -> str:
    return f"{len(labels)} classes ({', '.join(labels[:3])}, ...)"


DATASETS: dict[str, Callable[[], Dataset]] = {"digits": _digits, "signal": _signal}
