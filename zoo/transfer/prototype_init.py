"""A head that begins as a nearest-mean classifier of the backbone's features, for very few images.

Each class begins as the mean of its training images' features, "weight imprinting" (Qi et al.,
https://arxiv.org/abs/1712.07136) for a head with a bias: its scores rank the classes by their distance from the
features, and training goes on from there.
"""

import itertools
from typing import Any

import torch
from torch import Tensor, nn

from zoo.data.augmentation import shift
from zoo.data.registry import Dataset
from zoo.errors import SettingsError
from zoo.evaluation.evaluate import batch_size_for
from zoo.transfer.heads import HeadedNet

SHARPNESS = 10.0  # how far apart the scores of an image begin, about; more makes the first steps smaller


def init_from_class_means(network: HeadedNet, data: Dataset, max_shift_px: int) -> None:
    """Set the head's one linear layer so that the highest score is that of the nearest class mean.

    The score of class c begins as s (m_c - m) . z - s/2 (|m_c|^2 - |m|^2), z the features, m_c the mean of class c, m
    that of the means. Where training moves images, the means are over images moved in all eight directions, too.

    Raises:
        SettingsError: the data have several labels an image, or no image of some class, or all means are the same.
    """
    if data.task != "single-label":
        raise SettingsError("head_init means needs data with one class an image; these have several labels")
    means = _class_means(network, data, max_shift_px)
    centre = means.mean(dim=0)
    spread = float((means - centre).square().sum(dim=1).mean())
    if spread == 0:
        raise SettingsError("head_init means finds the same mean for all classes: the backbone gives no features")
    scale = SHARPNESS / spread
    head: Any = network.get_classifier()
    with torch.no_grad():
        head.weight.copy_(scale * (means - centre))
        head.bias.copy_(-scale / 2 * (means.square().sum(dim=1) - centre.square().sum()))


def _class_means(network: HeadedNet, data: Dataset, max_shift_px: int) -> Tensor:
    """The mean features of each class, (classes, width), float32 from sums in float64."""
    classes, targets = len(data.labels), data.train.targets
    counts = torch.bincount(targets, minlength=classes)
    if not bool(counts.all()):
        missing = data.labels[int(counts.argmin())]
        raise SettingsError(f"head_init means needs a training image of each class; '{missing}' has none")
    device = next(network.parameters()).device
    sums: Any = 0
    network.eval()
    for chosen in torch.split(torch.arange(len(targets)), batch_size_for(data.input_size)):
        members = nn.functional.one_hot(targets[chosen], classes).double()
        images = next(data.train.batches([chosen]))
        sums = sums + sum(members.T @ _features(network, data, view, device) for view in _views(images, max_shift_px))
    views = len(_steps(max_shift_px)) ** 2
    means: Tensor = sums / (views * counts[:, None])
    return means.float().to(device)


def _features(network: HeadedNet, data: Dataset, images: Tensor, device: torch.device) -> Tensor:
    """What the head's linear layer gets, (N, width)."""
    with torch.no_grad():
        x = data.preprocessing.normalise(images.to(device))
        features = network.forward_head(network.forward_features(x), pre_logits=True)
    return features.flatten(1).double().cpu()


def _views(images: Tensor, max_shift_px: int) -> list[Tensor]:
    moves = itertools.product(_steps(max_shift_px), repeat=2)
    return [shift(images, torch.tensor([move]).expand(len(images), 2)) if any(move) else images for move in moves]


def _steps(max_shift_px: int) -> tuple[int, ...]:
    return (-max_shift_px, 0, max_shift_px) if max_shift_px else (0,)
