"""Data sets of the Hugging Face hub, or of a folder in any form that its `datasets` library reads.

    hf:NAME            hf:beans, hf:uoft-cs/cifar10, hf:images/ (a folder)
    hf:NAME#COLUMN     where several columns hold classes: hf:uoft-cs/cifar100#fine_label
    hf:NAME@SUBSET     where a set has several: hf:NAME@SUBSET#COLUMN if both

The images are the one column of type Image; the labels are one of type ClassLabel, or a list of them, which makes the
data multi-label. Needs the extra `zoonnx[hf]`.
"""

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from zoo.data.library import LibraryDataset, Part, with_all_splits
from zoo.errors import DataError
from zoo.storage.hub import offline_fallback

PREFIX = "hf:"
SPLITS = {"train": "train", "validation": "val", "valid": "val", "val": "val", "dev": "val", "test": "test"}
LABEL_NAMES = ("label", "labels")


@dataclass(frozen=True, eq=False)
class Column:
    """The images of a table."""

    rows: Any
    name: str

    def __getitem__(self, index: int) -> Image.Image:
        value = self.rows[index][self.name]
        if not isinstance(value, Image.Image):
            raise ValueError(f"the column '{self.name}' holds no image there")
        return value


def open_hf(name: str) -> LibraryDataset:
    """The labels of a set and the images of train, val and test.

    Raises:
        DataError: the library is not installed, the set cannot be had, or it is not one of images with classes.
    """
    place, _, wanted = name.partition("#")
    found = {SPLITS[split]: rows for split, rows in _load(place).items() if split in SPLITS}
    if "train" not in found:
        raise DataError(f"the data set {place} has no split 'train'")
    features = found["train"].features
    image, label = _image_column(place, features), _label_column(place, features, wanted)
    labels = tuple(_classes(features[label]).names)
    parts = {
        split: Part(
            Column(rows.select_columns([image]), image),
            f"{rows._fingerprint} {image}",
            tuple(range(len(rows))),
            _targets(place, rows[label], labels),
        )
        for split, rows in found.items()
    }
    return LibraryDataset(labels, with_all_splits(parts, labels))


def subset_of(place: str) -> tuple[str, str]:
    """A set's name, or a folder, and which of its subsets, if one is named."""
    name, _, subset = place.partition("@")
    return (place, "") if Path(place).is_dir() else (name, subset)


def _load(place: str) -> Any:
    """All splits by name; whatever goes wrong in the library is one sentence."""
    load_dataset = _library()
    name, subset = subset_of(place)
    is_folder = Path(name).is_dir()
    try:
        with nullcontext() if is_folder else offline_fallback():
            return load_dataset(str(Path(name)) if is_folder else name, subset or None)
    except Exception as error:  # the library's own, the hub's, and those of every file format
        raise DataError(
            f"the data set {place} cannot be loaded ({_gist(error)}); check the name and the network, "
            "name one of its subsets if it has several (hf:NAME@SUBSET), or give a folder that holds it: hf:FOLDER"
        ) from error


def _gist(error: Exception) -> str:
    if isinstance(error, ConnectionError):
        return "the hub cannot be reached, and its cache on this machine does not hold it"
    return f"{type(error).__name__}: {' '.join(str(error).split()).rstrip('. ')}"


def _library() -> Callable[..., Any]:
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise DataError("data of hf: need the package datasets: pip install 'zoonnx[hf]'") from error
    return load_dataset  # type: ignore[no-any-return]


def _image_column(place: str, features: Mapping[str, Any]) -> str:
    from datasets import Image as ImageFeature

    names = [name for name, feature in features.items() if isinstance(feature, ImageFeature)]
    if len(names) != 1:
        raise DataError(f"the data set {place} should have one column of images; it has {_listed(names, features)}")
    return names[0]


def _label_column(place: str, features: Mapping[str, Any], wanted: str) -> str:
    names = [name for name, feature in features.items() if _classes(feature) is not None]
    if wanted:
        if wanted not in names:
            raise DataError(f"the data set {place} has no column '{wanted}' of classes; {_listed(names, features)}")
        return wanted
    if len(names) > 1:
        names = [name for name in names if name in LABEL_NAMES] or names
    if len(names) != 1:
        raise DataError(
            f"the data set {place} should have one column of classes; it has {_listed(names, features)}; "
            f"choose one: hf:{place}#COLUMN"
        )
    return names[0]


def _classes(feature: Any) -> Any:
    """The ClassLabel that a column holds, one an image or a list; None for any other column."""
    from datasets import ClassLabel

    held = getattr(feature, "feature", feature)
    return held if isinstance(held, ClassLabel) else None


def _targets(place: str, values: Any, labels: tuple[str, ...]) -> Tensor:
    values = list(values)
    lists = any(isinstance(value, list) for value in values)
    numbers = [number for value in values for number in (value if lists else [value])]
    if any(number is None or not 0 <= number < len(labels) for number in numbers):
        raise DataError(f"the data set {place} has images without a class; use the splits that have them all")
    if not lists:
        return torch.tensor(values, dtype=torch.int64)
    targets = torch.zeros(len(values), len(labels), dtype=torch.int64)
    for row, value in enumerate(values):
        targets[row, value] = 1
    return targets


def _listed(names: list[str], features: Mapping[str, Any]) -> str:
    return f"{', '.join(names) or 'none'} among {', '.join(features)}"
