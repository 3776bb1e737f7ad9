"""How good a net is on labelled pictures."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics.functional.classification import multiclass_accuracy

from zoo.errors import DataError
from zoo.preprocessing import Preprocessing


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


def evaluate(
    net: nn.Module, images: Tensor, targets: Tensor, preprocessing: Preprocessing, *, batch_size: int = 256
) -> Evaluation:
    """Run `net` in eval mode over uint8 (N, H, W, C) images; its mode is afterwards what it was.

    Raises:
        DataError: no images, not one target for each, or a target that is not one of the net's classes.
    """
    logits = _logits(net, images, preprocessing, batch_size)
    _check_targets(targets, images=len(images), classes=logits.shape[1])
    predictions = logits.argmax(dim=1)
    accuracy = multiclass_accuracy(predictions, targets, num_classes=logits.shape[1], average="micro")
    loss = F.cross_entropy(logits, targets)
    return Evaluation(loss.item(), accuracy.item(), logits, predictions, targets)


def _logits(net: nn.Module, images: Tensor, preprocessing: Preprocessing, batch_size: int) -> Tensor:
    if len(images) == 0:
        raise DataError("there are no images to evaluate")
    was_training = net.training
    device = next(net.parameters()).device
    net.eval()
    try:
        with torch.inference_mode():
            batches = [
                net(preprocessing.normalise(batch.to(device))).cpu() for batch in torch.split(images, batch_size)
            ]
    finally:
        net.train(was_training)
    return torch.cat(batches)  # (N, classes)


def _check_targets(targets: Tensor, *, images: int, classes: int) -> None:
    if targets.shape != (images,):
        raise DataError(f"{images} images need as many targets; got targets of shape {tuple(targets.shape)}")
    low, high = int(targets.min()), int(targets.max())
    if low < 0 or high >= classes:
        raise DataError(f"the net has classes 0 to {classes - 1}; the targets reach from {low} to {high}")
