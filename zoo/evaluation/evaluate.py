"""Evaluation of a network on labelled images: loss, accuracy and, for multi-label data, precision and F1."""

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
from zoo.networks.preprocessing import InputTransform

MAX_BATCH = 256
MAX_BATCH_VALUES = 2**23  # 55 images of 3x224x224


@dataclass(frozen=True)
class Evaluation:
    """The result of an evaluation, with the tensors it was computed from, on the CPU.

    Attributes:
        loss: mean cross-entropy, binary for multi-label data.
        accuracy: share of correct predictions; a multi-label prediction is correct if every label is.
        logits: float32 (N, classes).
        predictions: int64, the predicted class (N,), or 0 and 1 for each label (N, labels) at probability 0.5.
        targets: int64, classes (N,) or labels (N, labels).
        mean_average_precision: mean over the labels that occur in the split; None for single-label data.
        macro_f1: mean over the labels that occur in the split or in the predictions; None for single-label data.
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
        """All measures of this task, by name."""
        scores = {"loss": self.loss, "accuracy": self.accuracy}
        if self.mean_average_precision is not None and self.macro_f1 is not None:
            scores |= {"mean_average_precision": self.mean_average_precision, "macro_f1": self.macro_f1}
        return scores


def evaluate(
    network: nn.Module,
    split: Split,
    preprocessing: InputTransform,
    *,
    batch_size: int | None = None,
    accelerator: Accelerator | None = None,
) -> Evaluation:
    """Run `network` in eval mode over a split, and restore its mode.

    The processes of an `accelerator` divide the images among them, and all return the complete result.

    Raises:
        DataError: the split is empty, a target is not one of the network's classes, or no image has any label.
    """
    if len(split) == 0:
        raise DataError("there are no images to evaluate")
    size = batch_size or batch_size_for(preprocessing.input_size)
    if accelerator is None or accelerator.num_processes == 1:
        logits = _logits(network, split, torch.arange(len(split)), preprocessing, size)
    else:
        logits = _distributed_logits(network, split, preprocessing, size, accelerator)
    targets = split.targets
    loss = make_loss(task_of(targets), label_smoothing=0.0)
    if task_of(targets) == "multi-label":
        return _evaluate_multilabel(logits, targets, loss)
    _check_targets(targets, classes=logits.shape[1])
    predictions = logits.argmax(dim=1)
    accuracy = multiclass_accuracy(predictions, targets, num_classes=logits.shape[1], average="micro")
    return Evaluation(loss(logits, targets).item(), accuracy.item(), logits, predictions, targets)


def _evaluate_multilabel(logits: Tensor, targets: Tensor, loss: nn.Module) -> Evaluation:
    labels = logits.shape[1]
    if targets.shape[1] != labels:
        raise DataError(f"the network has {labels} labels; the targets have {targets.shape[1]}")
    if not bool(targets.any()):
        raise DataError("no image has any label; the average precision needs at least one")
    probabilities = logits.double().sigmoid()  # float32 would round all logits above 17 to the same probability
    present = targets.any(dim=0).nonzero().flatten().tolist()
    precisions = [binary_average_precision(probabilities[:, label], targets[:, label]) for label in present]
    return Evaluation(
        loss(logits, targets).item(),
        multilabel_exact_match(probabilities, targets, num_labels=labels).item(),
        logits,
        (probabilities > 0.5).long(),
        targets,
        torch.stack(precisions).mean().item(),
        multilabel_f1_score(probabilities, targets, num_labels=labels, average="macro").item(),
    )


def batch_size_for(input_size: tuple[int, ...]) -> int:
    """Return the batch size for inputs of this size: MAX_BATCH, or fewer for large images."""
    return max(1, min(MAX_BATCH, MAX_BATCH_VALUES // math.prod(input_size)))


def _distributed_logits(
    network: nn.Module, split: Split, preprocessing: InputTransform, batch_size: int, accelerator: Accelerator
) -> Tensor:
    """Return all logits; each process computes its own rows, and the sum over the processes joins them."""
    process_rows = torch.tensor_split(torch.arange(len(split)), accelerator.num_processes)[accelerator.process_index]
    computed_rows = process_rows if len(process_rows) else torch.tensor([0])  # at least one, for the number of classes
    computed = _logits(network, split, computed_rows, preprocessing, batch_size)
    logits = torch.zeros(len(split), *computed.shape[1:])
    logits[process_rows] = computed[: len(process_rows)]
    return all_reduce_sum(accelerator, logits)


def _logits(
    network: nn.Module, split: Split, indices: Tensor, preprocessing: InputTransform, batch_size: int
) -> Tensor:
    was_training = network.training
    device = next(network.parameters()).device
    network.eval()
    try:
        with torch.inference_mode():
            batches = split.batches(torch.split(indices, batch_size))
            logits = [network(preprocessing.normalise(images.to(device))).cpu() for images in batches]
    finally:
        network.train(was_training)
    return torch.cat(logits)  # (N, classes)


def _check_targets(targets: Tensor, *, classes: int) -> None:
    low, high = int(targets.min()), int(targets.max())
    if low < 0 or high >= classes:
        raise DataError(f"the network has classes 0 to {classes - 1}; the targets range from {low} to {high}")
