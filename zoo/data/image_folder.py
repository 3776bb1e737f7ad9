"""Image folders: one sub-folder per class, as in torchvision's ImageFolder, or a table of labels.

PATH/CLASS/...                                   val and test are held out by a hash of the file names
PATH/train/CLASS/... PATH/val/... PATH/test/...  used as they are; a missing val or test is held out of train
PATH/labels.csv                                  any number of labels per image: see labels_csv.py
"""

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from zoo.data.augmentation import PHOTOS, Augmentation, EvalView
from zoo.data.holdout import holdout_split
from zoo.data.image_io import SUFFIXES, image_error
from zoo.data.labels_csv import TABLE, multi_hot, read_table, split_rows
from zoo.data.paths import check_folder, require_path
from zoo.data.splits import FileSplit
from zoo.errors import DataError
from zoo.networks.preprocessing import Preprocessing
from zoo.settings import BadImages

MAX_REPORTED = 10
UNLISTED = f"not listed in {TABLE}"
FilesByClass = dict[str, list[Path]]  # sorted


@dataclass(frozen=True, eq=False)
class LabelledFiles:
    """Image files and their int64 targets: classes (N,) or labels (N, labels)."""

    files: tuple[Path, ...]
    targets: Tensor


@dataclass(frozen=True)
class FolderContents:
    """The labelled files of a folder.

    Attributes:
        labels: the names of the classes, by index.
        splits: the files of train, val and test.
        skipped: the bad files that were left out, each with its reason.
        augmentation: the default augmentation of training images.
    """

    labels: tuple[str, ...]
    splits: Mapping[str, LabelledFiles]
    skipped: tuple[str, ...]
    augmentation: Augmentation = PHOTOS

    def split(self, name: str, preprocessing: Preprocessing, workers: int) -> FileSplit:
        """Return the images of one split, preprocessed for a network by `workers` extra processes."""
        labelled = self.splits[name]
        view = EvalView(preprocessing)
        return FileSplit(labelled.files, labelled.targets, preprocessing.channels, view, workers)


def open_folder(path: str, bad_images: BadImages) -> FolderContents:
    """Find the images of each class or label under `path`, and check every file once.

    Raises:
        DataError: not a folder, fewer than two classes, a class without images, or bad files with `bad_images` "fail".
    """
    require_path(path)
    root = Path(path)
    check_folder(root)
    return _open_table(root, bad_images) if (root / TABLE).is_file() else _open_classes(root, bad_images)


def _open_classes(root: Path, bad_images: BadImages) -> FolderContents:
    has_splits = (root / "train").is_dir()
    train = _files_by_class(root / "train" if has_splits else root)
    existing = {name: _files_by_class(root / name) for name in ("val", "test") if has_splits and (root / name).is_dir()}
    splits = [train, *existing.values()]
    errors = _image_errors(root, [file for split in splits for files in split.values() for file in files], bad_images)
    for split in splits:
        for label, files in split.items():
            split[label] = [file for file in files if file not in errors]
    _check_classes(root, train, existing)
    labels = tuple(train)
    missing = [name for name in ("val", "test") if name not in existing]
    held_out = _hold_out(_labelled(train, labels), labels, missing)
    labelled = {name: _labelled(split, labels) for name, split in existing.items()}
    return FolderContents(labels, labelled | held_out, _report(root, errors))


def _open_table(root: Path, bad_images: BadImages) -> FolderContents:
    rows = read_table(root)
    listed = {row.file for row in rows}
    unlisted = {file: UNLISTED for file in _image_files(root) if file not in listed}
    errors = _image_errors(root, [row.file for row in rows], bad_images, unlisted)
    rows = [row for row in rows if row.file not in errors]
    labels = tuple(sorted(frozenset().union(*(row.labels for row in rows))))
    if len(labels) < 2:
        raise DataError(
            f"{root / TABLE} has {len(labels)} labels ({', '.join(labels) or 'none'}); at least 2 are needed"
        )
    splits = {
        name: LabelledFiles(tuple(row.file for row in split), multi_hot(split, labels))
        for name, split in split_rows(root, rows, labels).items()
    }
    return FolderContents(labels, splits, _report(root, errors))


def _files_by_class(root: Path) -> FilesByClass:
    folders = sorted(folder for folder in root.iterdir() if folder.is_dir() and not folder.name.startswith("."))
    return {folder.name: _image_files(folder) for folder in folders}


def _image_files(folder: Path) -> list[Path]:
    files = [Path(parent) / name for parent, _, names in os.walk(folder, followlinks=True) for name in names]
    return sorted(file for file in files if file.suffix.lower() in SUFFIXES and not file.name.startswith("."))


def _image_errors(
    root: Path, files: Sequence[Path], bad_images: BadImages, known: Mapping[Path, str] | None = None
) -> dict[Path, str]:
    """Return why files cannot be used as images, together with the `known` errors of other files.

    Raises:
        DataError: there are bad files and `bad_images` is "fail".
    """
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        errors = {file: error for file, error in zip(files, pool.map(image_error, files), strict=True) if error}
    errors |= known or {}
    report = _report(root, errors)
    if report and bad_images == "fail":
        more = f"; and {len(report) - MAX_REPORTED} more" if len(report) > MAX_REPORTED else ""
        total = len(files) + len(known or {})
        raise DataError(
            f"{len(report)} of {total} images in {root} cannot be used: {'; '.join(report[:MAX_REPORTED])}{more}; "
            "repair or remove them, or train without them: --bad-images skip"
        )
    return errors


def _report(root: Path, errors: Mapping[Path, str]) -> tuple[str, ...]:
    return tuple(f"{file.relative_to(root)} ({error})" for file, error in errors.items())


def _check_classes(root: Path, train: FilesByClass, existing: Mapping[str, FilesByClass]) -> None:
    if len(train) < 2:
        raise DataError(f"{root} has {len(train)} class folders ({', '.join(train) or 'none'}); at least 2 are needed")
    for name, split in existing.items():
        unknown = sorted(split.keys() - train.keys())
        if unknown:
            raise DataError(f"{root / name} has the class folder '{unknown[0]}', which {root / 'train'} does not have")
        if not any(split.values()):
            raise DataError(f"{root / name} has no images")
    required = 3 - len(existing)
    for label, files in train.items():
        if not files:
            raise DataError(f"the class folder '{label}' in {root} has no images ({', '.join(sorted(SUFFIXES))})")
        if len(files) < required:
            raise DataError(
                f"the class '{label}' in {root} has {len(files)} images; splitting them needs at least {required}"
            )


def _hold_out(train: LabelledFiles, labels: tuple[str, ...], names: list[str]) -> dict[str, LabelledFiles]:
    classes = train.targets.tolist()
    keys = [f"{labels[index]}/{file.name}" for file, index in zip(train.files, classes, strict=True)]
    return {
        name: LabelledFiles(tuple(train.files[index] for index in indices), train.targets[indices])
        for name, indices in holdout_split(keys, classes, labels, names).items()
    }


def _labelled(split: FilesByClass, labels: tuple[str, ...]) -> LabelledFiles:
    pairs = [(file, index) for index, label in enumerate(labels) for file in sorted(split.get(label, []))]
    targets = torch.tensor([index for _, index in pairs], dtype=torch.int64)
    return LabelledFiles(tuple(file for file, _ in pairs), targets)
