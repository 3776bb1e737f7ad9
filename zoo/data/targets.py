"""Targets of single-label and multi-label classification, and what depends on them: loss, class weights, sampling.

Targets are int64: the class of each image, (N,), or 0 and 1 for each of its labels, (N, labels).
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Task = Literal["single-label", "multi-label"]


def task_of(targets: Tensor) -> Task:
    """Return the task that these targets belong to, by their number of axes."""
    return "multi-label" if targets.ndim == 2 else "single-label"


def counts_of(targets: Tensor, classes: int) -> Tensor:
    """Return the number of images of each class, (classes,)."""
    return targets.sum(0) if task_of(targets) == "multi-label" else targets.bincount(minlength=classes)


def make_loss(task: Task, label_smoothing: float, weights: Tensor | None = None) -> nn.Module:
    """Return cross-entropy for classes, mean binary cross-entropy for labels; `weights` come from `class_weights`."""
    if task == "multi-label":
        return MultiLabelLoss(label_smoothing, weights)
    return nn.CrossEntropyLoss(weight=weights, label_smoothing=label_smoothing)


class MultiLabelLoss(nn.Module):
    """Binary cross-entropy, the mean over images and labels; smoothing moves each target towards 1/2.

    `weights` (labels,) multiply the loss of a label where it is present.
    """

    weights: Tensor | None

    def __init__(self, label_smoothing: float, weights: Tensor | None = None) -> None:
        super().__init__()
        self.label_smoothing = label_smoothing
        self.register_buffer("weights", weights)

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        smoothed = targets.to(logits.dtype) * (1 - self.label_smoothing) + self.label_smoothing / 2
        return F.binary_cross_entropy_with_logits(logits, smoothed, pos_weight=self.weights)


def class_weights(targets: Tensor, classes: int) -> Tensor:
    """Return loss weights, float32 (classes,), by which rare classes contribute as much as frequent ones.

    Single-label: N / (classes * count), whose mean over the images is 1. Multi-label: the number of images without the
    label per image with it. A class without images, or a label that all images have, gets 1.
    """
    counts = counts_of(targets, classes).double()
    multi_label = task_of(targets) == "multi-label"
    weights = (len(targets) - counts) / counts if multi_label else len(targets) / (classes * counts)
    return torch.where((counts > 0) & (weights > 0), weights, 1.0).float()


def balanced_draws(targets: Tensor, classes: int) -> Tensor:
    """Draw as many indices as there are images, (N,), each class with the same probability, from torch's generator.

    A multi-label image counts for its rarest label; images without labels form their own class. The k-th repeat
    of image i, from 0, is drawn as i + k * N: `Split.batches` reads image i, and a view augments each repeat anew.
    """
    groups = rarest_label(targets) if task_of(targets) == "multi-label" else targets
    sizes = groups.bincount(minlength=classes).double()
    drawn = torch.multinomial(1 / sizes[groups], len(targets), replacement=True)
    return drawn + len(targets) * _earlier_occurrences(drawn)


def rarest_label(targets: Tensor) -> Tensor:
    """Return each image's label with the fewest images, (N,); the number of labels for an image without any."""
    counts = targets.sum(0)
    present_counts = torch.where(targets > 0, counts, len(targets) + 1)
    return torch.where(targets.any(1), present_counts.argmin(1), targets.shape[1])


def _earlier_occurrences(values: Tensor) -> Tensor:
    """Return how often each value of a 1-D tensor occurs before its position."""
    order = values.argsort(stable=True)
    ordered = values[order]
    occurrences = torch.empty_like(values)
    occurrences[order] = torch.arange(len(values)) - torch.searchsorted(ordered, ordered)
    return occurrences
