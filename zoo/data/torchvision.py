"""torchvision's classification datasets by class name, with their own splits: `torchvision:CIFAR10`.

The files are in FOLDER/NAME, in torchvision's layout, where FOLDER is `$TORCH_HOME/datasets`, by default
`~/.cache/torch/datasets`. Missing files are downloaded by torchvision.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from zoo.data.augmentation import NO_AUGMENTATION, PHOTOS, Augmentation
from zoo.data.library import LibraryDataset, SplitIndices, with_all_splits
from zoo.data.splits import hash_of
from zoo.errors import DataError, did_you_mean
from zoo.settings import BadImages, SplitName
from zoo.storage.atomic_io import new_folder

UNAVAILABLE = (OSError, RuntimeError, ImportError)  # raised by torchvision if files are missing or not downloadable

SplitOptions = Mapping[SplitName, Mapping[str, Any]]


@dataclass(frozen=True)
class Layout:
    """How to open a dataset class of torchvision.

    Attributes:
        targets: the attribute that holds its targets, or its (file, target) pairs if it is `_samples`.
        splits: the constructor's options for each split that the dataset has.
        augmentation: the default augmentation of training images: none for characters and signs, which a mirror
            image would change.
    """

    targets: str
    splits: SplitOptions = field(default_factory=lambda: {"train": {"split": "train"}, "test": {"split": "test"}})
    augmentation: Augmentation = PHOTOS


BY_FLAG: SplitOptions = {"train": {"train": True}, "test": {"train": False}}
ALL_THREE: SplitOptions = {"train": {"split": "train"}, "val": {"split": "val"}, "test": {"split": "test"}}
LAYOUTS: Mapping[str, Layout] = {
    "CIFAR10": Layout("targets", BY_FLAG),
    "CIFAR100": Layout("targets", BY_FLAG),
    "Country211": Layout("targets", {**ALL_THREE, "val": {"split": "valid"}}),
    "DTD": Layout("_labels", ALL_THREE),
    "EuroSAT": Layout("targets", {"train": {}}),
    "FGVCAircraft": Layout("_labels", ALL_THREE),
    "FashionMNIST": Layout("targets", BY_FLAG, NO_AUGMENTATION),
    "Flowers102": Layout("_labels", ALL_THREE),
    "Food101": Layout("_labels"),
    "GTSRB": Layout("_samples", augmentation=NO_AUGMENTATION),
    "Imagenette": Layout("_samples", {"train": {"split": "train"}, "test": {"split": "val"}}),
    "KMNIST": Layout("targets", BY_FLAG, NO_AUGMENTATION),
    "MNIST": Layout("targets", BY_FLAG, NO_AUGMENTATION),
    "OxfordIIITPet": Layout("_labels", {"train": {"split": "trainval"}, "test": {"split": "test"}}),
    "RenderedSST2": Layout("_samples", ALL_THREE, NO_AUGMENTATION),
    "STL10": Layout("labels"),
    "SUN397": Layout("_labels", {"train": {}}),
    "SVHN": Layout("labels", augmentation=NO_AUGMENTATION),
    "USPS": Layout("targets", BY_FLAG, NO_AUGMENTATION),
}


def torchvision_folder() -> Path:
    """Return the folder that holds one folder per dataset."""
    return Path(torch.hub.get_dir()).parent / "datasets"


def open_torchvision(name: str, bad_images: BadImages) -> LibraryDataset:
    """Open one of LAYOUTS; `bad_images` has no effect.

    Raises:
        DataError: the name is unknown, or the files are missing and cannot be downloaded.
    """
    if name not in LAYOUTS:
        raise DataError(
            f"there is no torchvision dataset '{name}' of images with classes{did_you_mean(name, LAYOUTS) or '.'} "
            f"There are: {', '.join(LAYOUTS)}"
        )
    layout = LAYOUTS[name]
    datasets = _open_or_download(name, torchvision_folder() / name)
    targets = {split: _targets(dataset, layout.targets) for split, dataset in datasets.items()}
    splits = {
        split: SplitIndices(PairImages(dataset), _key(name, split, dataset), tuple(range(len(dataset))), targets[split])
        for split, dataset in datasets.items()
    }
    labels = _labels(datasets["train"], targets["train"])
    return LibraryDataset(labels, with_all_splits(splits, labels), layout.augmentation)


@dataclass(frozen=True, eq=False)
class PairImages:
    """The images of a torchvision dataset, which yields (image, target) pairs."""

    pairs: Any

    def __getitem__(self, index: int) -> Image.Image:
        image: Image.Image = self.pairs[index][0]
        return image


def _open_or_download(name: str, folder: Path) -> dict[str, Any]:
    """Return torchvision's dataset of each split."""
    try:
        return _open(name, folder, download=False)
    except UNAVAILABLE as error:
        return _download(name, folder, error)


def _download(name: str, folder: Path, missing: BaseException) -> dict[str, Any]:
    """Download the files into `folder`; a failed download leaves no new folder behind."""
    try:
        if folder.exists():
            return _open(name, folder, download=True)
        folder.parent.mkdir(parents=True, exist_ok=True)
        with new_folder(folder) as unfinished:
            _open(name, unfinished, download=True)
        return _open(name, folder, download=False)
    except UNAVAILABLE as error:
        raise DataError(
            f"torchvision's {name} is not in {folder} ({_reason(missing)}) and cannot be downloaded "
            f"({_reason(error)}); put its files there in torchvision's layout, or set TORCH_HOME to the folder that "
            f"contains datasets/{name}"
        ) from error


def _open(name: str, folder: Path, *, download: bool) -> dict[str, Any]:
    from torchvision import datasets

    dataset_class = getattr(datasets, name)
    return {
        split: dataset_class(root=folder, **options, download=download)
        for split, options in LAYOUTS[name].splits.items()
    }


def _targets(dataset: Any, attribute: str) -> Tensor:
    values = getattr(dataset, attribute)
    if attribute == "_samples":
        values = [target for _, target in values]
    return torch.as_tensor(values, dtype=torch.int64)


def _labels(dataset: Any, targets: Tensor) -> tuple[str, ...]:
    """Return torchvision's names of the classes, or their numbers if it has no names."""
    names = getattr(dataset, "classes", None) or range(int(targets.max()) + 1)
    return tuple(", ".join(name) if isinstance(name, tuple) else str(name) for name in names)


def _key(name: str, split: str, dataset: Any) -> str:
    """Return a hash of the bytes of images in memory, or of the paths, sizes and times of files."""
    data = getattr(dataset, "data", None)
    if data is not None:
        return hash_of(name.encode(), split.encode(), torch.as_tensor(data).numpy().tobytes())
    files = sorted(file for file in Path(dataset.root).rglob("*") if file.is_file())
    states = [(file.relative_to(dataset.root), file.stat()) for file in files]
    listed = "\n".join(f"{file} {state.st_size} {state.st_mtime_ns}" for file, state in states)
    return hash_of(name.encode(), split.encode(), listed.encode())


def _reason(error: BaseException) -> str:
    message = " ".join(str(error).split()).rstrip(". ")
    return message or type(error).__name__
