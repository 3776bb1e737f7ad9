"""The misclassified images with the highest loss."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.data.splits import FileSplit
from zoo.report.evaluated_run import EvaluatedRun
from zoo.report.images import ReportImage, images_of
from zoo.report.metrics import THRESHOLD

MAX_MISTAKES = 24

LabelProbability = tuple[str, float]


@dataclass(frozen=True)
class Mistake:
    """A misclassified image.

    Attributes:
        name: the image's file, or its split and index.
        image: the image as the network received it.
        truth: the true class and its probability; for several labels, those that were missed.
        predicted: the predicted class and its probability; for several labels, those predicted wrongly.
    """

    name: str
    image: ReportImage
    truth: tuple[LabelProbability, ...]
    predicted: tuple[LabelProbability, ...]


def worst_mistakes(evaluated: EvaluatedRun) -> list[Mistake]:
    """Return the misclassified images with the highest loss, the highest first; at most MAX_MISTAKES."""
    truth, predicted = _truth_and_predictions(evaluated)
    misclassified = (truth != predicted).any(dim=1)
    order = torch.argsort(_losses(evaluated), descending=True, stable=True)
    indices = order[misclassified[order]][:MAX_MISTAKES]
    return [
        Mistake(
            _name(evaluated, index),
            image,
            truth=_labels(evaluated, index, truth & ~predicted),
            predicted=_labels(evaluated, index, predicted & ~truth),
        )
        for index, image in zip(indices.tolist(), images_of(evaluated.images, indices), strict=True)
    ]


def _truth_and_predictions(evaluated: EvaluatedRun) -> tuple[Tensor, Tensor]:
    """Return both as bool (N, classes)."""
    evaluation = evaluated.evaluation
    if evaluated.is_multi_label:
        return evaluation.targets > 0, evaluated.probabilities > THRESHOLD
    classes = evaluation.logits.shape[1]
    predictions = evaluation.logits.argmax(dim=1)
    return F.one_hot(evaluation.targets, classes).bool(), F.one_hot(predictions, classes).bool()


def _losses(evaluated: EvaluatedRun) -> Tensor:
    """Return the loss of each image: float64 (N,)."""
    logits, targets = evaluated.evaluation.logits.double(), evaluated.evaluation.targets
    if evaluated.is_multi_label:
        return F.binary_cross_entropy_with_logits(logits, targets.double(), reduction="none").mean(dim=1)
    return F.cross_entropy(logits, targets, reduction="none")


def _labels(evaluated: EvaluatedRun, index: int, selected: Tensor) -> tuple[LabelProbability, ...]:
    """Return the labels of image `index` that are set in `selected`, bool (N, classes)."""
    probabilities = evaluated.probabilities[index].tolist()
    labels = selected[index].nonzero().flatten().tolist()
    return tuple((evaluated.data.labels[label], probabilities[label]) for label in labels)


def _name(evaluated: EvaluatedRun, index: int) -> str:
    images = evaluated.images
    if isinstance(images, FileSplit):
        file = images.files[index]
        return f"{file.parent.name}/{file.name}"
    return f"{evaluated.split} {index}"
