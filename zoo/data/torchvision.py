"""torchvision's classification sets by name, with their own splits: `torchvision:CIFAR10`.

A set's files lie in FOLDER/NAME, laid out as torchvision has them, where FOLDER is `datasets` in torch's own cache:
`$TORCH_HOME/datasets`, by default `~/.cache/torch/datasets`. What is not there torchvision downloads.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from zoo.data.augmentation import Augmentation
from zoo.data.library import PHOTOS, LibraryDataset, Part, with_all_splits
from zoo.data.splits import hash_of
from zoo.errors import DataError, did_you_mean
from zoo.settings import SplitName
from zoo.storage.atomic_io import new_folder

PREFIX = "torchvision:"
NO_FILES = (OSError, RuntimeError, ImportError)  # what torchvision raises where it cannot find, fetch or unpack


@dataclass(frozen=True)
class Layout:
    """What to ask a class of torchvision for: its options for each of its own splits; where it keeps its targets.

    `augmentation` is what suits its images: signs that are mirrored are other signs.
    """

    targets: str
    splits: Mapping[SplitName, Mapping[str, Any]] = field(
        default_factory=lambda: {"train": {"split": "train"}, "test": {"split": "test"}}
    )
    augmentation: Augmentation = PHOTOS


SIGNS = Augmentation()
FLAG: Mapping[SplitName, Mapping[str, Any]] = {"train": {"train": True}, "test": {"train": False}}
THREE: Mapping[SplitName, Mapping[str, Any]] = {
    "train": {"split": "train"},
    "val": {"split": "val"},
    "test": {"split": "test"},
}
SETS: Mapping[str, Layout] = {
    "CIFAR10": Layout("targets", FLAG),
    "CIFAR100": Layout("targets", FLAG),
    "Country211": Layout("targets", {**THREE, "val": {"split": "valid"}}),
    "DTD": Layout("_labels", THREE),
    "EuroSAT": Layout("targets", {"train": {}}),
    "FGVCAircraft": Layout("_labels", THREE),
    "FashionMNIST": Layout("targets", FLAG, SIGNS),
    "Flowers102": Layout("_labels", THREE),
    "Food101": Layout("_labels"),
    "GTSRB": Layout("_samples", augmentation=SIGNS),
    "Imagenette": Layout("_samples", {"train": {"split": "train"}, "test": {"split": "val"}}),
    "KMNIST": Layout("targets", FLAG, SIGNS),
    "MNIST": Layout("targets", FLAG, SIGNS),
    "OxfordIIITPet": Layout("_labels", {"train": {"split": "trainval"}, "test": {"split": "test"}}),
    "RenderedSST2": Layout("_samples", THREE, SIGNS),
    "STL10": Layout("labels"),
    "SUN397": Layout("_labels", {"train": {}}),
    "SVHN": Layout("labels", augmentation=SIGNS),
    "USPS": Layout("targets", FLAG, SIGNS),
}


def torchvision_folder() -> Path:
    """Where the sets lie, a folder each."""
    return Path(torch.hub.get_dir()).parent / "datasets"


def open_torchvision(name: str) -> LibraryDataset:
    """The labels of a set and the images of train, val and test.

    Raises:
        DataError: there is no such set, or its files are neither there nor can be downloaded.
    """
    if name not in SETS:
        raise DataError(
            f"torchvision has no data set '{name}' of images with classes that is known here"
            f"{did_you_mean(name, SETS) or '.'} There are: {', '.join(SETS)}"
        )
    found = _sets(name, torchvision_folder() / name)
    targets = {split: _targets(each, SETS[name].targets) for split, each in found.items()}
    parts = {
        split: Part(FirstOf(each), _key(name, split, each), tuple(range(len(each))), targets[split])
        for split, each in found.items()
    }
    labels = _labels(found["train"], targets["train"])
    return LibraryDataset(labels, with_all_splits(parts, labels), SETS[name].augmentation)


@dataclass(frozen=True, eq=False)
class FirstOf:
    """The image of each pair that torchvision gives."""

    pairs: Any

    def __getitem__(self, index: int) -> Image.Image:
        image: Image.Image = self.pairs[index][0]
        return image


def _sets(name: str, folder: Path) -> dict[str, Any]:
    """Each split of torchvision's class, from its files or else from the network; a failed download leaves no trace."""
    try:
        return _open(name, folder, download=False)
    except NO_FILES as missing:
        return _download(name, folder, missing)


def _download(name: str, folder: Path, missing: BaseException) -> dict[str, Any]:
    try:
        if folder.exists():
            return _open(name, folder, download=True)
        folder.parent.mkdir(parents=True, exist_ok=True)
        with new_folder(folder) as unfinished:
            _open(name, unfinished, download=True)
        return _open(name, folder, download=False)
    except NO_FILES as error:
        raise DataError(
            f"torchvision's {name} is not in {folder} ({_words(missing)}), and cannot be downloaded ({_words(error)}); "
            f"put its files there as torchvision lays them out, or set TORCH_HOME to the folder above "
            f"datasets/{name}"
        ) from error


def _open(name: str, folder: Path, *, download: bool) -> dict[str, Any]:
    from torchvision import datasets

    kind = getattr(datasets, name)
    return {split: kind(root=folder, **options, download=download) for split, options in SETS[name].splits.items()}


def _targets(images: Any, name: str) -> Tensor:
    values = getattr(images, name)
    if name == "_samples":
        values = [target for _, target in values]
    return torch.as_tensor(values, dtype=torch.int64)


def _labels(images: Any, targets: Tensor) -> tuple[str, ...]:
    """Torchvision's names of the classes, or their numbers where it has none."""
    names = getattr(images, "classes", None) or range(int(targets.max()) + 1)
    return tuple(", ".join(each) if isinstance(each, tuple) else str(each) for each in names)


def _key(name: str, split: str, images: Any) -> str:
    """Of images in memory by their bytes, of others by their files' paths, sizes and times."""
    data = getattr(images, "data", None)
    if data is not None:
        return hash_of(name.encode(), split.encode(), torch.as_tensor(data).numpy().tobytes())
    files = sorted(file for file in Path(images.root).rglob("*") if file.is_file())
    states = [(file.relative_to(images.root), file.stat()) for file in files]
    listed = "\n".join(f"{file} {state.st_size} {state.st_mtime_ns}" for file, state in states)
    return hash_of(name.encode(), split.encode(), listed.encode())


def _words(error: BaseException) -> str:
    text = " ".join(str(error).split()).rstrip(". ")
    return text or type(error).__name__
