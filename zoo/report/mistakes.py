"""The images that a network is most wrong about."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.data.splits import FileSplit
from zoo.report.evaluated_run import EvaluatedRun
from zoo.report.images import ReportImage, images_of
from zoo.report.metrics import THRESHOLD

MOST_MISTAKES = 24


@dataclass(frozen=True)
class Mistake:
    """An image, what it is, what the network said, and how likely it found each; `name` says which image it is.

    Where an image may have several labels, `truth` holds those that were missed, `said` those that it has not.
    """

    name: str
    image: ReportImage
    truth: tuple[tuple[str, float], ...]
    said: tuple[tuple[str, float], ...]


def worst_mistakes(subject: EvaluatedRun) -> list[Mistake]:
    """Wrong answers by the loss of their image, the highest first; at most MOST_MISTAKES."""
    there, said = _truth_and_answers(subject)
    wrong = (there != said).any(dim=1)
    missed, added = (there & ~said, said & ~there)
    order = torch.argsort(_losses(subject), descending=True, stable=True)
    chosen = order[wrong[order]][:MOST_MISTAKES]
    shown = images_of(subject.images, chosen)
    return [
        Mistake(_name(subject, index), image, _named(subject, index, missed), _named(subject, index, added))
        for index, image in zip(chosen.tolist(), shown, strict=True)
    ]


def _truth_and_answers(subject: EvaluatedRun) -> tuple[Tensor, Tensor]:
    """Both as bool (N, classes)."""
    evaluation = subject.evaluation
    if subject.several:
        return evaluation.targets > 0, subject.probabilities > THRESHOLD
    classes = evaluation.logits.shape[1]
    answers = evaluation.logits.argmax(dim=1)
    return F.one_hot(evaluation.targets, classes).bool(), F.one_hot(answers, classes).bool()


def _losses(subject: EvaluatedRun) -> Tensor:
    logits, targets = subject.evaluation.logits.double(), subject.evaluation.targets
    if subject.several:
        return F.binary_cross_entropy_with_logits(logits, targets.double(), reduction="none").mean(dim=1)
    return F.cross_entropy(logits, targets, reduction="none")


def _named(subject: EvaluatedRun, index: int, chosen: Tensor) -> tuple[tuple[str, float], ...]:
    likely = subject.probabilities[index].tolist()
    return tuple((subject.data.labels[place], likely[place]) for place in chosen[index].nonzero().flatten().tolist())


def _name(subject: EvaluatedRun, index: int) -> str:
    images = subject.images
    if isinstance(images, FileSplit):
        file = images.files[index]
        return f"{file.parent.name}/{file.name}"
    return f"{subject.split} {index}"
