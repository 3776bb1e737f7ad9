"""How good a network is on labelled images."""

import math
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torchmetrics.functional.classification import (
    binary_average_precision,
    multiclass_accuracy,
    multilabel_exact_match,
    multilabel_f1_score,
)

from zoo.data.splits import Split
from zoo.data.targets import Task, make_loss, task_of
from zoo.errors import DataError
from zoo.evaluation.reduce import all_reduce_sum
from zoo.networks.preprocessing import InputRule

MAX_BATCH = 256
MAX_BATCH_NUMBERS = 2**23  # 55 images of 3x224x224


@dataclass(frozen=True)
class Evaluation:
    """Mean cross-entropy and share of right answers, with what they were computed from, on the CPU.

    `logits` is float32 (N, classes); `predictions` and `targets` are int64 (N,). Where an image may have several
    labels they are (N, labels), and an answer is right if every label is. The mean average precision is that over the
    labels that the split has, macro-F1 that over the labels that it has or the network sees, at a probability of 0.5.
    """

    loss: float
    accuracy: float
    logits: Tensor
    predictions: Tensor
    targets: Tensor
    mean_average_precision: float | None = None
    macro_f1: float | None = None

    @property
    def task(self) -> Task:
        return task_of(self.targets)

    @property
    def scores(self) -> dict[str, float]:
        """All measures by name."""
        found = {"loss": self.loss, "accuracy": self.accuracy}
        if self.mean_average_precision is not None and self.macro_f1 is not None:
            found |= {"mean_average_precision": self.mean_average_precision, "macro_f1": self.macro_f1}
        return found


def evaluate(
    network: nn.Module,
    split: Split,
    preprocessing: InputRule,
    *,
    batch_size: int | None = None,
    accelerator: Accelerator | None = None,
) -> Evaluation:
    """Run `network` in eval mode over a split; its mode is afterwards what it was.

    The processes of an `accelerator` share the images among them, each image once, and all get the whole result.

    Raises:
        DataError: no images, or a target that is not one of the network's classes, or labels of which no image has any.
    """
    if len(split) == 0:
        raise DataError("there are no images to evaluate")
    size = batch_size or batch_size_for(preprocessing.input_size)
    if accelerator is None or accelerator.num_processes == 1:
        logits = _logits(network, split, torch.arange(len(split)), preprocessing, size)
    else:
        logits = _logits_together(network, split, preprocessing, size, accelerator)
    targets = split.targets
    loss = make_loss(task_of(targets), label_smoothing=0.0)
    if task_of(targets) == "multi-label":
        return _of_labels(logits, targets, loss)
    _check_targets(targets, classes=logits.shape[1])
    predictions = logits.argmax(dim=1)
    accuracy = multiclass_accuracy(predictions, targets, num_classes=logits.shape[1], average="micro")
    return Evaluation(loss(logits, targets).item(), accuracy.item(), logits, predictions, targets)


def _of_labels(logits: Tensor, targets: Tensor, loss: nn.Module) -> Evaluation:
    labels = logits.shape[1]
    if targets.shape[1] != labels:
        raise DataError(f"the network has {labels} labels; the targets are of {targets.shape[1]}")
    if not bool(targets.any()):
        raise DataError("no image has any label, so that nothing can be ranked")
    found = logits.double().sigmoid()  # float32 would call all beyond 17 equal
    there = targets.any(dim=0).nonzero().flatten().tolist()
    precisions = [binary_average_precision(found[:, label], targets[:, label]) for label in there]
    macro_f1 = multilabel_f1_score(found, targets, num_labels=labels, average="macro")
    exact = multilabel_exact_match(found, targets, num_labels=labels)
    predictions = (found > 0.5).long()
    measured = loss(logits, targets).item()
    precision = torch.stack(precisions).mean()
    return Evaluation(measured, exact.item(), logits, predictions, targets, precision.item(), macro_f1.item())


def batch_size_for(input_size: tuple[int, ...]) -> int:
    """How many images of a size go through a network at once: MAX_BATCH, fewer of large ones."""
    return max(1, min(MAX_BATCH, MAX_BATCH_NUMBERS // math.prod(input_size)))


def _logits_together(
    network: nn.Module, split: Split, rule: InputRule, batch_size: int, accelerator: Accelerator
) -> Tensor:
    """Each process fills its own rows, the others add 0 to them."""
    own = torch.tensor_split(torch.arange(len(split)), accelerator.num_processes)[accelerator.process_index]
    found = _logits(network, split, own if len(own) else torch.tensor([0]), rule, batch_size)
    logits = torch.zeros(len(split), *found.shape[1:])
    logits[own] = found[: len(own)]
    return all_reduce_sum(accelerator, logits)


def _logits(network: nn.Module, split: Split, indices: Tensor, preprocessing: InputRule, batch_size: int) -> Tensor:
    was_training = network.training
    device = next(network.parameters()).device
    network.eval()
    try:
        with torch.inference_mode():
            chosen = torch.split(indices, batch_size)
            batches = [network(preprocessing.normalise(batch.to(device))).cpu() for batch in split.batches(chosen)]
    finally:
        network.train(was_training)
    return torch.cat(batches)  # (N, classes)


def _check_targets(targets: Tensor, *, classes: int) -> None:
    low, high = int(targets.min()), int(targets.max())
    if low < 0 or high >= classes:
        raise DataError(f"the network has classes 0 to {classes - 1}; the targets reach from {low} to {high}")
