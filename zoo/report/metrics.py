"""Metrics of an evaluated run: accuracy with a confidence interval, and scores of each class."""

import math
from dataclasses import dataclass
from statistics import NormalDist

import torch
from torch import Tensor
from torchmetrics.functional.classification import binary_average_precision, multiclass_confusion_matrix

from zoo.report.evaluated_run import EvaluatedRun

CONFIDENCE = 0.95
THRESHOLD = 0.5  # of a label's probability, for images that may have several labels


@dataclass(frozen=True)
class Proportion:
    """The proportion of correctly classified images, with its confidence interval at CONFIDENCE."""

    correct: int
    images: int
    low: float
    high: float

    @property
    def value(self) -> float:
        return self.correct / self.images


@dataclass(frozen=True)
class ClassScore:
    """Scores of one class; a score is None if its denominator is 0.

    Attributes:
        label: name of the class.
        trained_on: its images in the training split.
        images: its images in the evaluated split.
        predicted: images predicted as this class.
        correct: images of this class predicted as this class.
        average_precision: only for images that may have several labels.
    """

    label: str
    trained_on: int
    images: int
    predicted: int
    correct: int
    average_precision: float | None = None

    @property
    def precision(self) -> float | None:
        return self.correct / self.predicted if self.predicted else None

    @property
    def recall(self) -> float | None:
        return self.correct / self.images if self.images else None

    @property
    def f1(self) -> float | None:
        total = self.predicted + self.images
        return 2 * self.correct / total if total else None


def interval(correct: int, images: int) -> Proportion:
    """Return a proportion with Wilson's score interval.

    E. B. Wilson, "Probable Inference, the Law of Succession, and Statistical Inference", 1927.
    """
    z, share = NormalDist().inv_cdf((1 + CONFIDENCE) / 2), correct / images
    scale = 1 + z**2 / images
    middle = (share + z**2 / (2 * images)) / scale
    half = z / scale * math.sqrt(share * (1 - share) / images + z**2 / (4 * images**2))
    return Proportion(correct, images, max(0.0, middle - half), min(1.0, middle + half))


def accuracy(evaluated: EvaluatedRun) -> Proportion:
    """Return the proportion of images whose class, or all of whose labels, were predicted correctly."""
    targets = evaluated.evaluation.targets
    if evaluated.is_multi_label:
        correct = ((evaluated.probabilities > THRESHOLD) == (targets > 0)).all(dim=1)
    else:
        correct = evaluated.evaluation.logits.argmax(dim=1) == targets
    return interval(int(correct.sum()), len(targets))


def confusion(evaluated: EvaluatedRun) -> Tensor:
    """Return the confusion matrix, int64 (classes, classes): true classes in rows, predictions in columns."""
    logits, targets = evaluated.evaluation.logits, evaluated.evaluation.targets
    counts: Tensor = multiclass_confusion_matrix(logits.argmax(dim=1), targets, num_classes=logits.shape[1])
    return counts


def class_scores(evaluated: EvaluatedRun) -> list[ClassScore]:
    """Return a score for each class, in the order of the classes."""
    images, predicted, correct = _label_counts(evaluated) if evaluated.is_multi_label else _class_counts(evaluated)
    trained_on = images_per_class(evaluated.data.train.targets, len(evaluated.data.labels))
    precisions = _average_precisions(evaluated)
    rows = zip(evaluated.data.labels, trained_on, images, predicted, correct, precisions, strict=True)
    return [ClassScore(*row) for row in rows]


def images_per_class(targets: Tensor, classes: int) -> list[int]:
    """Return the number of images of each class or label."""
    counts = (targets > 0).sum(dim=0) if targets.ndim == 2 else torch.bincount(targets, minlength=classes)
    return [int(count) for count in counts]


def mean_average_precision(scores: list[ClassScore]) -> float | None:
    """Return the mean over the labels that occur; None if each image has exactly one class."""
    precisions = [score.average_precision for score in scores if score.average_precision is not None]
    return sum(precisions) / len(precisions) if precisions else None


def _class_counts(evaluated: EvaluatedRun) -> tuple[list[int], list[int], list[int]]:
    """Return per class the number of images, of predictions and of correct predictions."""
    counts = confusion(evaluated)
    return counts.sum(dim=1).tolist(), counts.sum(dim=0).tolist(), counts.diagonal().tolist()


def _label_counts(evaluated: EvaluatedRun) -> tuple[list[int], list[int], list[int]]:
    """Return the same numbers per label."""
    present, predicted = evaluated.evaluation.targets > 0, evaluated.probabilities > THRESHOLD
    return present.sum(dim=0).tolist(), predicted.sum(dim=0).tolist(), (present & predicted).sum(dim=0).tolist()


def _average_precisions(evaluated: EvaluatedRun) -> list[float | None]:
    """Return the average precision of each label; None for labels that do not occur and for single-class images."""
    precisions: list[float | None] = [None] * len(evaluated.data.labels)
    if evaluated.is_multi_label:
        present = evaluated.evaluation.targets > 0
        for label in present.any(dim=0).nonzero().flatten().tolist():
            precision = binary_average_precision(evaluated.probabilities[:, label], present[:, label].long())
            precisions[label] = precision.item()
    return precisions
