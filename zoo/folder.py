"""Pictures in folders: one folder a class, as torchvision's ImageFolder has them.

PATH/CLASS/...                                   divided by a hash of the files' names
PATH/train/CLASS/... PATH/val/... PATH/test/...  taken as they are; what is missing is divided off train
"""

import hashlib
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch

from zoo.augment import PlainView
from zoo.errors import DataError
from zoo.pictures import SUFFIXES, fault_of
from zoo.preprocessing import Preprocessing
from zoo.settings import BadImages
from zoo.splits import FileSplit

HELD_OUT = 0.1  # the share of each class that becomes val, and test, where there is no such folder
MOST_NAMED = 10
Classes = dict[str, list[Path]]  # the files of each class, in order


@dataclass(frozen=True)
class FolderContents:
    """What a folder holds: the files of each split with their class index, and the bad ones that were left out."""

    labels: tuple[str, ...]
    splits: Mapping[str, tuple[tuple[Path, int], ...]]
    skipped: tuple[str, ...]

    def split(self, name: str, rule: Preprocessing, workers: int) -> FileSplit:
        """The pictures of one split for a net of that preprocessing."""
        files = tuple(file for file, _ in self.splits[name])
        targets = torch.tensor([target for _, target in self.splits[name]], dtype=torch.int64)
        return FileSplit(files, targets, rule.channels, PlainView(rule), workers)


def scan(root: Path, bad_images: BadImages) -> FolderContents:
    """Find the pictures of each class and look at every file once.

    Raises:
        DataError: no folder, fewer than two classes, a class without pictures, or bad files that should not be skipped.
    """
    if not root.is_dir():
        raise DataError(f"there is no folder {root}; pictures lie in one folder a class: {root}/CLASS/*.png")
    train = _classes(root / "train" if (root / "train").is_dir() else root)
    given = {
        name: _classes(root / name) for name in ("val", "test") if (root / "train").is_dir() and (root / name).is_dir()
    }
    skipped = _drop_bad(root, [train, *given.values()], bad_images)
    _check_classes(root, train, given)
    splits = given | _divide(train, [name for name in ("val", "test") if name not in given])
    labels = tuple(train)
    return FolderContents(labels, {name: _listed(split, labels) for name, split in splits.items()}, skipped)


def _classes(root: Path) -> Classes:
    folders = sorted(folder for folder in root.iterdir() if folder.is_dir() and not folder.name.startswith("."))
    return {folder.name: _pictures(folder) for folder in folders}


def _pictures(folder: Path) -> list[Path]:
    found = [Path(place) / name for place, _, names in os.walk(folder, followlinks=True) for name in names]
    return sorted(file for file in found if file.suffix.lower() in SUFFIXES and not file.name.startswith("."))


def _drop_bad(root: Path, parts: list[Classes], bad_images: BadImages) -> tuple[str, ...]:
    files = [file for part in parts for each in part.values() for file in each]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        faults = {file: fault for file, fault in zip(files, pool.map(fault_of, files), strict=True) if fault}
    report = tuple(f"{file.relative_to(root)} ({fault})" for file, fault in faults.items())
    if report and bad_images == "fail":
        more = f"; and {len(report) - MOST_NAMED} more" if len(report) > MOST_NAMED else ""
        raise DataError(
            f"{len(report)} of {len(files)} pictures in {root} cannot be read: {'; '.join(report[:MOST_NAMED])}{more}; "
            "mend or remove them, or leave them out by --bad-images skip"
        )
    for part in parts:
        for name, held in part.items():
            part[name] = [file for file in held if file not in faults]
    return report


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
            raise DataError(f"{root / name} holds no pictures")
    need = 3 - len(given)
    for label, files in train.items():
        if not files:
            raise DataError(f"the class folder '{label}' in {root} holds no picture ({', '.join(sorted(SUFFIXES))})")
        if len(files) < need:
            raise DataError(f"the class '{label}' in {root} has {len(files)} pictures; to divide them it needs {need}")


def _divide(train: Classes, names: list[str]) -> dict[str, Classes]:
    """Take a tenth of each class, at least one picture, off for each of `names`: those of the lowest hashes."""
    splits: dict[str, Classes] = {name: {} for name in [*names, "train"]}
    for label, files in train.items():
        rest = sorted(files, key=lambda file: hashlib.sha256(f"{label}/{file.name}".encode()).digest())
        count = max(1, round(HELD_OUT * len(files)))
        for name in names:
            splits[name][label], rest = rest[:count], rest[count:]
        splits["train"][label] = sorted(rest)
    return splits


def _listed(part: Classes, labels: tuple[str, ...]) -> tuple[tuple[Path, int], ...]:
    return tuple((file, index) for index, label in enumerate(labels) for file in sorted(part.get(label, [])))
