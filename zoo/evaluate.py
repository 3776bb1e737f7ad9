"""How good a net is on labelled pictures."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics.functional.classification import multiclass_accuracy

from zoo.errors import DataError
from zoo.preprocessing import InputRule
from zoo.splits import Split

MAX_BATCH = 256
MAX_BATCH_NUMBERS = 2**23  # 55 pictures of 3x224x224


@dataclass(frozen=True)
class Evaluation:
    """Mean cross-entropy and share of right answers, with what they were computed from, on the CPU.

    `logits` is float32 (N, classes); `predictions` and `targets` are int64 (N,).
    """

    loss: float
    accuracy: float
    logits: Tensor
    predictions: Tensor
    targets: Tensor


def evaluate(net: nn.Module, split: Split, preprocessing: InputRule, *, batch_size: int | None = None) -> Evaluation:
    """Run `net` in eval mode over a split; its mode is afterwards what it was.

    Raises:
        DataError: no images, or a target that is not one of the net's classes.
    """
    logits = _logits(net, split, preprocessing, batch_size or batch_size_for(preprocessing.input_size))
    targets = split.targets
    _check_targets(targets, classes=logits.shape[1])
    predictions = logits.argmax(dim=1)
    accuracy = multiclass_accuracy(predictions, targets, num_classes=logits.shape[1], average="micro")
    loss = F.cross_entropy(logits, targets)
    return Evaluation(loss.item(), accuracy.item(), logits, predictions, targets)


def batch_size_for(input_size: tuple[int, ...]) -> int:
    """How many pictures of a size go through a net at once: MAX_BATCH, fewer of large ones."""
    return max(1, min(MAX_BATCH, MAX_BATCH_NUMBERS // math.prod(input_size)))


def _logits(net: nn.Module, split: Split, preprocessing: InputRule, batch_size: int) -> Tensor:
    if len(split) == 0:
        raise DataError("there are no images to evaluate")
    was_training = net.training
    device = next(net.parameters()).device
    net.eval()
    try:
        with torch.inference_mode():
            chosen = torch.split(torch.arange(len(split)), batch_size)
            batches = [net(preprocessing.normalise(batch.to(device))).cpu() for batch in split.batches(chosen)]
    finally:
        net.train(was_training)
    return torch.cat(batches)  # (N, classes)


def _check_targets(targets: Tensor, *, classes: int) -> None:
    low, high = int(targets.min()), int(targets.max())
    if low < 0 or high >= classes:
        raise DataError(f"the net has classes 0 to {classes - 1}; the targets reach from {low} to {high}")
