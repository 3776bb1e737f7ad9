"""Predictions saved as images and a CSV table."""

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from zoo.data.splits import Split
from zoo.data.targets import task_of
from zoo.errors import DataError
from zoo.evaluation.evaluate import Evaluation
from zoo.storage.atomic_io import new_folder

SEPARATOR = ";"


def save_predictions(folder: Path, split: Split, evaluation: Evaluation, labels: Sequence[str]) -> None:
    """Write the split's images, as the network saw them, and predictions.csv with one row per image.

    The images are `images/LABEL/INDEX.png`, or `images/INDEX.png` for multi-label data; a `/` in a label becomes `_`.
    The columns are the file relative to `folder`, its label, the predicted label, and the logit of each class with
    enough digits to restore the float32. Several labels of one image are separated by `;`.

    Raises:
        DataError: `folder` exists.
    """
    if folder.exists():
        raise DataError(f"{folder} already exists; nothing was overwritten: remove it or choose another folder")
    subfolders = _subfolders(evaluation, labels)
    files = [f"images/{subfolder}{index:05d}.png" for index, subfolder in enumerate(subfolders)]
    with new_folder(folder) as unfinished:
        for file, image in zip(files, split.batches(torch.split(torch.arange(len(split)), 1)), strict=True):
            _save_png(unfinished / file, image[0])
        with (unfinished / "predictions.csv").open("w", newline="", encoding="utf-8") as out:
            writer = csv.writer(out, lineterminator="\n")
            writer.writerow(["file", "label", "predicted", *(f"logit_{label}" for label in labels)])
            writer.writerows(_rows(files, evaluation, labels))


def _rows(files: Sequence[str], evaluation: Evaluation, labels: Sequence[str]) -> Iterator[list[str]]:
    targets, predictions = _label_names(evaluation.targets, labels), _label_names(evaluation.predictions, labels)
    for file, target, predicted, logits in zip(files, targets, predictions, evaluation.logits.numpy(), strict=True):
        yield [file, target, predicted, *(str(logit) for logit in logits)]


def _subfolders(evaluation: Evaluation, labels: Sequence[str]) -> list[str]:
    """Return the sub-folder of each image within images/, with a trailing slash; empty for multi-label data."""
    if evaluation.task == "multi-label":
        return [""] * len(evaluation.targets)
    return [f"{name.replace('/', '_')}/" for name in _label_names(evaluation.targets, labels)]


def _label_names(targets: Tensor, labels: Sequence[str]) -> list[str]:
    if task_of(targets) == "single-label":
        return [labels[target] for target in targets.tolist()]
    return [SEPARATOR.join(label for label, has in zip(labels, row, strict=True) if has) for row in targets.tolist()]


def _save_png(path: Path, image: Tensor) -> None:
    pixels = image.numpy()  # (H, W, C)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels).save(path)
