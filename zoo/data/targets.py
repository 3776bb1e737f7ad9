"""What an image may be: one class, or any number of labels; and what that means for the loss and for the draw.

Targets are int64: the class of each image, (N,), or a 0 or 1 for each of its labels, (N, labels).
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Task = Literal["single-label", "multi-label"]


def task_of(targets: Tensor) -> Task:
    """Which of the two these targets are."""
    return "multi-label" if targets.ndim == 2 else "single-label"


def counts_of(targets: Tensor, classes: int) -> Tensor:
    """How many images each class has, (classes,)."""
    return targets.sum(0) if task_of(targets) == "multi-label" else targets.bincount(minlength=classes)


def make_loss(task: Task, label_smoothing: float, weights: Tensor | None = None) -> nn.Module:
    """Cross-entropy of classes, or the mean binary one of labels; `weights` are those of `class_weights`."""
    if task == "multi-label":
        return LabelLoss(label_smoothing, weights)
    return nn.CrossEntropyLoss(weight=weights, label_smoothing=label_smoothing)


class LabelLoss(nn.Module):
    """Binary cross-entropy, the mean over images and labels; smoothing moves each target towards 1/2.

    `weights` (labels,) multiply what a label costs where it is there.
    """

    weights: Tensor | None

    def __init__(self, label_smoothing: float, weights: Tensor | None = None) -> None:
        super().__init__()
        self.label_smoothing = label_smoothing
        self.register_buffer("weights", weights)

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        wanted = targets.to(logits.dtype) * (1 - self.label_smoothing) + self.label_smoothing / 2
        return F.binary_cross_entropy_with_logits(logits, wanted, pos_weight=self.weights)


def class_weights(targets: Tensor, classes: int) -> Tensor:
    """What each class counts in the loss, float32 (classes,), so that rare ones count as much as frequent ones.

    Of classes N / (classes * count), whose mean over the images is 1. Of labels, how many images lack it for each
    that has it. One that no image has counts 1.
    """
    counts = counts_of(targets, classes).double()
    multi = task_of(targets) == "multi-label"
    weights = (len(targets) - counts) / counts if multi else len(targets) / (classes * counts)
    return torch.where((counts > 0) & (weights > 0), weights, 1.0).float()


def balanced_draws(targets: Tensor, classes: int) -> Tensor:
    """As many draws as there are images, (N,), with which each class is as likely as any other; by torch's generator.

    An image with several labels is drawn for the rarest of them, one without labels as a class of its own. The k-th
    draw of image i, from 0, is i + k * N: `Split.batches` takes it for i, and a view gives each a look of its own.
    """
    groups = rarest_label(targets) if task_of(targets) == "multi-label" else targets
    sizes = groups.bincount(minlength=classes).double()
    drawn = torch.multinomial(1 / sizes[groups], len(targets), replacement=True)
    return drawn + len(targets) * _repeats(drawn)


def rarest_label(targets: Tensor) -> Tensor:
    """The label of each image that fewest others have, (N,); the number of labels where an image has none."""
    counts = targets.sum(0)
    among = torch.where(targets > 0, counts, len(targets) + 1)
    return torch.where(targets.any(1), among.argmin(1), targets.shape[1])


def _repeats(drawn: Tensor) -> Tensor:
    """How often each number of `drawn` came before."""
    order = drawn.argsort(stable=True)
    ordered = drawn[order]
    repeats = torch.empty_like(drawn)
    repeats[order] = torch.arange(len(drawn)) - torch.searchsorted(ordered, ordered)
    return repeats
