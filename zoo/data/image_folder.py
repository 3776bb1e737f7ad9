"""Images in folders: one folder a class, as torchvision's ImageFolder has them, or with a table of labels.

PATH/CLASS/...                                   divided by a hash of the files' names
PATH/train/CLASS/... PATH/val/... PATH/test/...  taken as they are; what is missing is divided off train
PATH/labels.csv                                  any number of labels for each image: see label_table.py
"""

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from zoo.data.augmentation import PlainView
from zoo.data.holdout import divide
from zoo.data.image_io import SUFFIXES, image_error
from zoo.data.labels_csv import TABLE, multi_hot, read_table, split_rows
from zoo.data.paths import check_folder
from zoo.data.splits import FileSplit
from zoo.errors import DataError
from zoo.networks.preprocessing import Preprocessing
from zoo.settings import BadImages

MOST_NAMED = 10
UNNAMED = f"{TABLE} does not name it"
Classes = dict[str, list[Path]]  # the files of each class, in order


@dataclass(frozen=True, eq=False)
class Labelled:
    """Files and their targets, as targets.py has them."""

    files: tuple[Path, ...]
    targets: Tensor


@dataclass(frozen=True)
class FolderContents:
    """What a folder holds: the files of each split with their targets, and the bad ones that were left out."""

    labels: tuple[str, ...]
    splits: Mapping[str, Labelled]
    skipped: tuple[str, ...]

    def split(self, name: str, rule: Preprocessing, workers: int) -> FileSplit:
        """The images of one split for a network of that preprocessing."""
        part = self.splits[name]
        return FileSplit(part.files, part.targets, rule.channels, PlainView(rule), workers)


def scan(root: Path, bad_images: BadImages) -> FolderContents:
    """Find the images of each class or label and look at every file once.

    Raises:
        DataError: not a folder, fewer than two classes, a class without any, or bad files that should not be skipped.
    """
    check_folder(root)
    return _scan_table(root, bad_images) if (root / TABLE).is_file() else _scan_classes(root, bad_images)


def _scan_classes(root: Path, bad_images: BadImages) -> FolderContents:
    train = _classes(root / "train" if (root / "train").is_dir() else root)
    given = {
        name: _classes(root / name) for name in ("val", "test") if (root / "train").is_dir() and (root / name).is_dir()
    }
    parts = [train, *given.values()]
    faults = _faults(root, [file for part in parts for each in part.values() for file in each], bad_images)
    for part in parts:
        for name, held in part.items():
            part[name] = [file for file in held if file not in faults]
    _check_classes(root, train, given)
    labels = tuple(train)
    splits = {name: _listed(part, labels) for name, part in given.items()}
    divided = _divide(_listed(train, labels), labels, [name for name in ("val", "test") if name not in given])
    return FolderContents(labels, splits | divided, _report(root, faults))


def _scan_table(root: Path, bad_images: BadImages) -> FolderContents:
    rows = read_table(root)
    named = {row.file for row in rows}
    unnamed = {file: UNNAMED for file in _images(root) if file not in named}
    faults = _faults(root, [row.file for row in rows], bad_images, unnamed)
    rows = [row for row in rows if row.file not in faults]
    labels = tuple(sorted(frozenset().union(*(row.labels for row in rows))))
    if len(labels) < 2:
        raise DataError(f"{root / TABLE} has {len(labels)} labels ({', '.join(labels) or 'none'}); it takes two")
    splits = split_rows(root, rows, labels)
    parts = {name: Labelled(tuple(row.file for row in each), multi_hot(each, labels)) for name, each in splits.items()}
    return FolderContents(labels, parts, _report(root, faults))


def _classes(root: Path) -> Classes:
    folders = sorted(folder for folder in root.iterdir() if folder.is_dir() and not folder.name.startswith("."))
    return {folder.name: _images(folder) for folder in folders}


def _images(folder: Path) -> list[Path]:
    found = [Path(place) / name for place, _, names in os.walk(folder, followlinks=True) for name in names]
    return sorted(file for file in found if file.suffix.lower() in SUFFIXES and not file.name.startswith("."))


def _faults(
    root: Path, files: Sequence[Path], bad_images: BadImages, known: Mapping[Path, str] | None = None
) -> dict[Path, str]:
    """What is wrong with which files, besides what is `known`. All of it is a DataError unless it may be skipped."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        faults = {file: fault for file, fault in zip(files, pool.map(image_error, files), strict=True) if fault}
    faults |= known or {}
    report = _report(root, faults)
    if report and bad_images == "fail":
        more = f"; and {len(report) - MOST_NAMED} more" if len(report) > MOST_NAMED else ""
        total = len(files) + len(known or {})
        raise DataError(
            f"{len(report)} of {total} images in {root} cannot be used: {'; '.join(report[:MOST_NAMED])}{more}; "
            "mend or remove them, or train without them by --bad-images skip"
        )
    return faults


def _report(root: Path, faults: Mapping[Path, str]) -> tuple[str, ...]:
    return tuple(f"{file.relative_to(root)} ({fault})" for file, fault in faults.items())


def _check_classes(root: Path, train: Classes, given: Mapping[str, Classes]) -> None:
    if len(train) < 2:
        raise DataError(
            f"{root} holds {len(train)} class folders ({', '.join(train) or 'none'}); a classifier needs two"
        )
    for name, part in given.items():
        odd = sorted(part.keys() - train.keys())
        if odd:
            raise DataError(f"{root / name} has the class folder '{odd[0]}', which {root / 'train'} has not")
        if not any(part.values()):
            raise DataError(f"{root / name} holds no images")
    need = 3 - len(given)
    for label, files in train.items():
        if not files:
            raise DataError(f"the class folder '{label}' in {root} holds no image ({', '.join(sorted(SUFFIXES))})")
        if len(files) < need:
            raise DataError(f"the class '{label}' in {root} has {len(files)} images; to divide them it needs {need}")


def _divide(train: Labelled, labels: tuple[str, ...], names: list[str]) -> dict[str, Labelled]:
    classes = train.targets.tolist()
    keys = [f"{labels[index]}/{file.name}" for file, index in zip(train.files, classes, strict=True)]
    return {name: _part(train, indices) for name, indices in divide(keys, classes, labels, names).items()}


def _part(whole: Labelled, indices: list[int]) -> Labelled:
    return Labelled(tuple(whole.files[index] for index in indices), whole.targets[indices])


def _listed(part: Classes, labels: tuple[str, ...]) -> Labelled:
    pairs = [(file, index) for index, label in enumerate(labels) for file in sorted(part.get(label, []))]
    targets = torch.tensor([index for _, index in pairs], dtype=torch.int64)
    return Labelled(tuple(file for file, _ in pairs), targets)
