"""How good a network is: over all, with the doubt that few images leave, and class by class."""

import math
from dataclasses import dataclass
from statistics import NormalDist

import torch
from torch import Tensor
from torchmetrics.functional.classification import binary_average_precision, multiclass_confusion_matrix

from zoo.report.evaluated_run import EvaluatedRun

CONFIDENCE = 0.95
THRESHOLD = 0.5  # of a label's probability, where an image may have several


@dataclass(frozen=True)
class Share:
    """So many of so many, and between which values the share of unlimited images lies at CONFIDENCE."""

    right: int
    images: int
    low: float
    high: float

    @property
    def value(self) -> float:
        return self.right / self.images


@dataclass(frozen=True)
class ClassScore:
    """One class: how many images it has, how many answers were right; None where there is nothing to divide by.

    `average_precision` is measured only where an image may have several labels.
    """

    label: str
    trained_on: int
    images: int
    answers: int
    right: int
    average_precision: float | None = None

    @property
    def precision(self) -> float | None:
        return self.right / self.answers if self.answers else None

    @property
    def recall(self) -> float | None:
        return self.right / self.images if self.images else None

    @property
    def f1(self) -> float | None:
        both = self.answers + self.images
        return 2 * self.right / both if both else None


def interval(right: int, images: int) -> Share:
    """Wilson's score interval: Probable Inference, the Law of Succession, and Statistical Inference, 1927."""
    z, share = NormalDist().inv_cdf((1 + CONFIDENCE) / 2), right / images
    scale = 1 + z**2 / images
    middle = (share + z**2 / (2 * images)) / scale
    half = z / scale * math.sqrt(share * (1 - share) / images + z**2 / (4 * images**2))
    return Share(right, images, max(0.0, middle - half), min(1.0, middle + half))


def right_answers(subject: EvaluatedRun) -> Share:
    """Images whose class was named, or, where they have several labels, whose labels were all told, no more no less."""
    targets = subject.evaluation.targets
    if subject.several:
        right = ((subject.probabilities > THRESHOLD) == (targets > 0)).all(dim=1)
    else:
        right = subject.evaluation.logits.argmax(dim=1) == targets
    return interval(int(right.sum()), len(targets))


def confusion(subject: EvaluatedRun) -> Tensor:
    """How often which class (row) was taken for which (column): int64 (classes, classes)."""
    logits, targets = subject.evaluation.logits, subject.evaluation.targets
    counts: Tensor = multiclass_confusion_matrix(logits.argmax(dim=1), targets, num_classes=logits.shape[1])
    return counts


def class_scores(subject: EvaluatedRun) -> list[ClassScore]:
    """A score for each class, in the order of the classes."""
    images, answers, right = _label_counts(subject) if subject.several else _class_counts(subject)
    trained_on = images_per_class(subject.data.train.targets, len(subject.data.labels))
    precisions = _average_precisions(subject)
    rows = zip(subject.data.labels, trained_on, images, answers, right, precisions, strict=True)
    return [ClassScore(*row) for row in rows]


def images_per_class(targets: Tensor, classes: int) -> list[int]:
    """How many images have each class or label."""
    counts = (targets > 0).sum(dim=0) if targets.ndim == 2 else torch.bincount(targets, minlength=classes)
    return [int(count) for count in counts]


def mean_average_precision(scores: list[ClassScore]) -> float | None:
    """Over the labels that some image has; None where images have one class each."""
    known = [score.average_precision for score in scores if score.average_precision is not None]
    return sum(known) / len(known) if known else None


def _class_counts(subject: EvaluatedRun) -> tuple[list[int], list[int], list[int]]:
    counts = confusion(subject)
    return counts.sum(dim=1).tolist(), counts.sum(dim=0).tolist(), counts.diagonal().tolist()


def _label_counts(subject: EvaluatedRun) -> tuple[list[int], list[int], list[int]]:
    there, said = subject.evaluation.targets > 0, subject.probabilities > THRESHOLD
    return there.sum(dim=0).tolist(), said.sum(dim=0).tolist(), (there & said).sum(dim=0).tolist()


def _average_precisions(subject: EvaluatedRun) -> list[float | None]:
    """Of each label that some image has."""
    found: list[float | None] = [None] * len(subject.data.labels)
    if subject.several:
        there = subject.evaluation.targets > 0
        for label in there.any(dim=0).nonzero().flatten().tolist():
            column = binary_average_precision(subject.probabilities[:, label], there[:, label].long())
            found[label] = column.item()
    return found
