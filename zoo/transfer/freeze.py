"""Which part of a headed network learns, epoch by epoch. What is frozen stays, BatchNorm's statistics included.

A frozen module is one whose parameters want no gradient; `train_unfrozen` keeps it in eval mode.
"""

import math
from typing import Any

from timm.models import group_parameters
from torch import nn

from zoo.settings import Schedule
from zoo.transfer.heads import HeadedNet

HEAD_SHARE = 0.2  # of the epochs, before head-then-all lets the backbone learn as well


def freeze_for_epoch(network: HeadedNet, schedule: Schedule, epoch: int, epochs: int) -> None:
    """Freeze and unfreeze the backbone's parameters as `schedule` has it for the epoch, counted from 1.

    `gradual` begins with the head alone and adds the backbone's stages from the last to the first, evenly over the
    epochs; in the last epoch everything learns.
    """
    groups = _stages(network.backbone)
    count = max(groups.values()) + 1
    learning = _learning_stages(schedule, epoch, epochs, count)
    for name, parameter in network.backbone.named_parameters():
        parameter.requires_grad_(groups[name] >= count - learning)


def train_unfrozen(network: nn.Module) -> None:
    """Put `network` into training mode, but for its frozen modules."""
    network.train()
    for module in network.modules():
        parameters = list(module.parameters())
        if parameters and not any(parameter.requires_grad for parameter in parameters):
            module.eval()


def _learning_stages(schedule: Schedule, epoch: int, epochs: int, count: int) -> int:
    if schedule == "probe":
        return 0
    if schedule == "head-then-all":
        return 0 if epoch <= math.ceil(HEAD_SHARE * epochs) and epoch < epochs else count
    return count if epoch == epochs else (epoch - 1) * (count + 1) // epochs


def _stages(backbone: Any) -> dict[str, int]:
    """The stage of each parameter, 0 next to the images, by timm's own grouping."""
    stages: dict[str, int] = group_parameters(backbone, backbone.group_matcher(coarse=True), reverse=True)
    return stages
