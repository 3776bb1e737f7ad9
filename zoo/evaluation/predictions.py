"""The images of an evaluation and what a network made of them, as files that anyone can read."""

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
    """Write `images/LABEL/INDEX.png` of the split's images as the network saw them, and a row for each in predictions.csv.

    The columns: the file relative to `folder`, its label, the predicted one, and the float32 logit of each class with
    as many digits as it takes to read the same number back. Where an image may have several labels it is
    `images/INDEX.png`, and labels stand with `;` between them. A `/` in a label is `_` in the folder's name.

    Raises:
        DataError: `folder` exists.
    """
    if folder.exists():
        raise DataError(f"{folder} is there already; nothing was overwritten: remove it or choose another folder")
    files = [f"images/{place}{index:05d}.png" for index, place in enumerate(_places(evaluation, labels))]
    with new_folder(folder) as unfinished:
        for file, image in zip(files, split.batches(torch.split(torch.arange(len(split)), 1)), strict=True):
            _save_png(unfinished / file, image[0])
        with (unfinished / "predictions.csv").open("w", newline="", encoding="utf-8") as out:
            writer = csv.writer(out, lineterminator="\n")
            writer.writerow(["file", "label", "predicted", *(f"logit_{label}" for label in labels)])
            writer.writerows(_rows(files, evaluation, labels))


def _rows(files: Sequence[str], evaluation: Evaluation, labels: Sequence[str]) -> Iterator[list[str]]:
    targets, predictions = (_names(each, labels) for each in (evaluation.targets, evaluation.predictions))
    for file, target, predicted, logits in zip(files, targets, predictions, evaluation.logits.numpy(), strict=True):
        yield [file, target, predicted, *(str(logit) for logit in logits)]


def _places(evaluation: Evaluation, labels: Sequence[str]) -> list[str]:
    """The folder of each image within images/, with its slash."""
    if evaluation.task == "multi-label":
        return [""] * len(evaluation.targets)
    return [f"{name.replace('/', '_')}/" for name in _names(evaluation.targets, labels)]


def _names(targets: Tensor, labels: Sequence[str]) -> list[str]:
    if task_of(targets) == "single-label":
        return [labels[target] for target in targets.tolist()]
    return [SEPARATOR.join(label for label, has in zip(labels, row, strict=True) if has) for row in targets.tolist()]


def _save_png(path: Path, image: Tensor) -> None:
    pixels = image.numpy()  # (H, W, C)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels).save(path)
