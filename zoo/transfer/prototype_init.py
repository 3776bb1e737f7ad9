"""Initialisation of a head as a nearest-mean classifier of the backbone's features, for very few images.

This is weight imprinting (Qi et al., https://arxiv.org/abs/1712.07136) for a head with a bias: the initial scores rank
the classes by the distance between the features and the mean features of each class's training images.
"""

import itertools
from typing import Any

import torch
from torch import Tensor, nn

from zoo.data.augmentation import shift
from zoo.data.dataset import Dataset
from zoo.errors import SettingsError
from zoo.evaluation.evaluate import batch_size_for
from zoo.transfer.heads import HeadedNetwork

SHARPNESS = 10.0  # approximate spread of an image's initial scores; a larger one makes the first steps smaller


def init_from_class_means(network: HeadedNetwork, data: Dataset, max_shift_px: int) -> None:
    """Initialise the head's only linear layer so that the nearest class mean gets the highest score.

    The initial score of class c is s (m_c - m) . z - s/2 (|m_c|^2 - |m|^2), where z are the features, m_c the mean of
    class c and m the mean of all m_c. If training shifts images, the means include images shifted by `max_shift_px` in
    all eight directions.

    Raises:
        SettingsError: images have several labels, a class has no training image, or all means are equal.
    """
    if data.task != "single-label":
        raise SettingsError("head_init means requires one class per image; these data have several labels per image")
    means = _class_means(network, data, max_shift_px)
    centre = means.mean(dim=0)
    spread = float((means - centre).square().sum(dim=1).mean())
    if spread == 0:
        raise SettingsError(
            "head_init means: all classes have the same mean, so the backbone's features do not separate them"
        )
    scale = SHARPNESS / spread
    head: Any = network.get_classifier()
    with torch.no_grad():
        head.weight.copy_(scale * (means - centre))
        head.bias.copy_(-scale / 2 * (means.square().sum(dim=1) - centre.square().sum()))


def _class_means(network: HeadedNetwork, data: Dataset, max_shift_px: int) -> Tensor:
    """Return the mean features of each class, (classes, width), as float32, summed in float64."""
    classes, targets = len(data.labels), data.train.targets
    counts = torch.bincount(targets, minlength=classes)
    if not bool(counts.all()):
        missing = data.labels[int(counts.argmin())]
        raise SettingsError(f"head_init means requires a training image of each class; '{missing}' has none")
    device = next(network.parameters()).device
    sums: Any = 0
    network.eval()
    for indices in torch.split(torch.arange(len(targets)), batch_size_for(data.input_size)):
        one_hot = nn.functional.one_hot(targets[indices], classes).double()  # (N, classes)
        images = next(data.train.batches([indices]))
        views = _shifted(images, max_shift_px)
        sums = sums + sum(one_hot.T @ _features(network, data, view, device) for view in views)
    views_per_image = len(_offsets(max_shift_px)) ** 2
    means: Tensor = sums / (views_per_image * counts[:, None])
    return means.float().to(device)


def _features(network: HeadedNetwork, data: Dataset, images: Tensor, device: torch.device) -> Tensor:
    """Return the input of the head's linear layer, (N, width)."""
    with torch.no_grad():
        x = data.preprocessing.normalise(images.to(device))
        features = network.forward_head(network.forward_features(x), pre_logits=True)
    return features.flatten(1).double().cpu()


def _shifted(images: Tensor, max_shift_px: int) -> list[Tensor]:
    shifts = itertools.product(_offsets(max_shift_px), repeat=2)
    return [shift(images, torch.tensor([pair]).expand(len(images), 2)) if any(pair) else images for pair in shifts]


def _offsets(max_shift_px: int) -> tuple[int, ...]:
    return (-max_shift_px, 0, max_shift_px) if max_shift_px else (0,)
