"""Datasets of the Hugging Face hub, or of a local folder in any format that its `datasets` library reads.

    hf:NAME            hf:beans, hf:uoft-cs/cifar10, hf:images/ (a folder)
    hf:NAME#COLUMN     if several columns hold classes: hf:uoft-cs/cifar100#fine_label
    hf:NAME@SUBSET     if the dataset has several subsets: hf:NAME@SUBSET#COLUMN for both

The images are the only column of type Image. The labels are a column of type ClassLabel, or of lists of ClassLabel for
multi-label data. Needs the extra `zoonnx[hf]`.
"""

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from zoo.data.library import LibraryDataset, SplitIndices, with_all_splits
from zoo.data.paths import split_hub_name
from zoo.errors import DataError
from zoo.settings import BadImages
from zoo.storage.hub import offline_fallback

SPLIT_NAMES = {"train": "train", "validation": "val", "valid": "val", "val": "val", "dev": "val", "test": "test"}
LABEL_COLUMNS = ("label", "labels")


@dataclass(frozen=True, eq=False)
class ImageColumn:
    """The images of a table, by row."""

    rows: Any
    name: str

    def __getitem__(self, index: int) -> Image.Image:
        value = self.rows[index][self.name]
        if not isinstance(value, Image.Image):
            raise ValueError(f"the column '{self.name}' has no image in this row")
        return value


def open_hf(name: str, bad_images: BadImages) -> LibraryDataset:
    """Open the dataset NAME[@SUBSET][#COLUMN]; `bad_images` has no effect.

    Raises:
        DataError: the `datasets` library is not installed, the dataset cannot be loaded, or it does not consist of
            images with classes.
    """
    path, subset, label_column = split_hub_name(name)
    dataset = f"{path}@{subset}" if subset else path
    tables = {SPLIT_NAMES[split]: rows for split, rows in _load(path, subset).items() if split in SPLIT_NAMES}
    if "train" not in tables:
        raise DataError(f"the dataset {dataset} has no split 'train'")
    features = tables["train"].features
    image, label = _image_column(dataset, features), _label_column(dataset, features, label_column)
    labels = tuple(_class_label(features[label]).names)
    splits = {
        split: SplitIndices(
            ImageColumn(rows.select_columns([image]), image),
            f"{rows._fingerprint} {image}",
            tuple(range(len(rows))),
            _targets(dataset, rows[label], labels),
        )
        for split, rows in tables.items()
    }
    return LibraryDataset(labels, with_all_splits(splits, labels))


def _load(path: str, subset: str) -> Any:
    """Return all splits by name.

    Raises:
        DataError: the library raised any exception; its message is included in one sentence.
    """
    load_dataset = _library()
    is_folder = Path(path).is_dir()
    try:
        with nullcontext() if is_folder else offline_fallback():
            return load_dataset(str(Path(path)) if is_folder else path, subset or None)
    except Exception as error:  # the library's own, the hub's, and those of every file format
        raise DataError(
            f"the dataset {path}{'@' * bool(subset)}{subset} cannot be loaded ({_reason(error)}); check the name and "
            "the network, choose a subset if it has several (hf:NAME@SUBSET), or name a local folder: hf:FOLDER"
        ) from error


def _reason(error: Exception) -> str:
    if isinstance(error, ConnectionError):
        return "the hub cannot be reached, and the local cache does not have it"
    return f"{type(error).__name__}: {' '.join(str(error).split()).rstrip('. ')}"


def _library() -> Callable[..., Any]:
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise DataError("hf: datasets need the package datasets: pip install 'zoonnx[hf]'") from error
    return load_dataset  # type: ignore[no-any-return]


def _image_column(dataset: str, features: Mapping[str, Any]) -> str:
    from datasets import Image as ImageFeature

    columns = [name for name, feature in features.items() if isinstance(feature, ImageFeature)]
    if len(columns) != 1:
        raise DataError(f"the dataset {dataset} needs exactly one column of images; {_columns(columns, features)}")
    return columns[0]


def _label_column(dataset: str, features: Mapping[str, Any], chosen: str) -> str:
    columns = [name for name, feature in features.items() if _class_label(feature) is not None]
    if chosen:
        if chosen not in columns:
            raise DataError(f"the dataset {dataset} has no column '{chosen}' of classes; {_columns(columns, features)}")
        return chosen
    if len(columns) > 1:
        columns = [name for name in columns if name in LABEL_COLUMNS] or columns
    if len(columns) != 1:
        raise DataError(
            f"the dataset {dataset} needs exactly one column of classes; {_columns(columns, features)}; "
            f"choose one: hf:{dataset}#COLUMN"
        )
    return columns[0]


def _class_label(feature: Any) -> Any:
    """Return the ClassLabel of a column, or of a column of lists; None for any other column."""
    from datasets import ClassLabel

    element = getattr(feature, "feature", feature)
    return element if isinstance(element, ClassLabel) else None


def _targets(dataset: str, column: Any, labels: tuple[str, ...]) -> Tensor:
    values = list(column)
    multi_label = any(isinstance(value, list) for value in values)
    classes = [number for value in values for number in (value if multi_label else [value])]
    if any(number is None or not 0 <= number < len(labels) for number in classes):
        raise DataError(f"the dataset {dataset} has images without a class; use splits whose images all have one")
    if not multi_label:
        return torch.tensor(values, dtype=torch.int64)
    targets = torch.zeros(len(values), len(labels), dtype=torch.int64)
    for row, value in enumerate(values):
        targets[row, value] = 1
    return targets


def _columns(columns: list[str], features: Mapping[str, Any]) -> str:
    return f"found {', '.join(columns) or 'none'} among the columns {', '.join(features)}"
