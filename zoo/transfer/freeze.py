"""Freezing of the backbone, epoch by epoch.

A module is frozen if none of its parameters requires a gradient; `train_unfrozen` keeps it in eval mode, so that
BatchNorm's statistics do not change either.
"""

import math
from typing import Any

from timm.models import group_parameters
from torch import nn

from zoo.settings import Schedule
from zoo.transfer.heads import HeadedNetwork

HEAD_ONLY_SHARE = 0.2  # of the epochs, in which head-then-all trains the head alone


def freeze_for_epoch(network: HeadedNetwork, schedule: Schedule, epoch: int, epochs: int) -> None:
    """Freeze and unfreeze the backbone's parameters for the epoch, counted from 1.

    The schedule `gradual` starts with the head alone and adds the backbone's stages from the last to the first, evenly
    over the epochs; in the last epoch everything is trained.
    """
    backbone: Any = network.backbone
    # the stage of each parameter by timm's grouping; 0 is next to the input
    stages: dict[str, int] = group_parameters(backbone, backbone.group_matcher(coarse=True), reverse=True)
    count = max(stages.values()) + 1
    trained = _trained_stages(schedule, epoch, epochs, count)
    for name, parameter in backbone.named_parameters():
        parameter.requires_grad_(stages[name] >= count - trained)


def train_unfrozen(network: nn.Module) -> None:
    """Put `network` into training mode, except its frozen modules."""
    network.train()
    for module in network.modules():
        parameters = list(module.parameters())
        if parameters and not any(parameter.requires_grad for parameter in parameters):
            module.eval()


def _trained_stages(schedule: Schedule, epoch: int, epochs: int, count: int) -> int:
    """Return how many of the backbone's `count` stages are trained, counted from the last."""
    if schedule == "probe":
        return 0
    if schedule == "head-then-all":
        return 0 if epoch <= math.ceil(HEAD_ONLY_SHARE * epochs) and epoch < epochs else count
    return count if epoch == epochs else (epoch - 1) * (count + 1) // epochs
