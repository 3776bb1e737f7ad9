"""Optimisers and learning rates, by timm's own implementations."""

import logging
import math
from typing import Any

import torch
from timm.optim import create_optimizer_v2, get_optimizer_info, list_optimizers, param_groups_weight_decay
from timm.optim._param_groups import param_groups_layer_decay
from timm.scheduler import CosineLRScheduler
from torch import nn

from zoo.errors import SettingsError, did_you_mean
from zoo.settings import TrainSettings
from zoo.transfer.heads import HeadedNet

# They say, on stderr, that a schedule of one step changes nothing, and that a backbone of one layer has no layer before
# it whose rate could be lower. Both are as they should be.
for name in ("timm.scheduler.cosine_lr", "timm.optim._param_groups"):
    logging.getLogger(name).setLevel(logging.ERROR)

WARMUP_SHARE = 0.1  # of all steps: the learning rate rises, then falls along a cosine


def make_optimizer(network: nn.Module, settings: TrainSettings) -> torch.optim.Optimizer:
    """The optimiser of all parameters; those that are frozen have no gradient, and so do not move.

    Each layer further from the classifier has `layer_decay` times the learning rate of the one after it.

    Raises:
        SettingsError: timm has no optimiser of that name, or it asks for what is not here.
    """
    name, known = settings.optimizer, [str(known) for known in list_optimizers()]
    if name not in known:
        raise SettingsError(f"timm has no optimizer '{name}'{did_you_mean(name, known)}")
    if get_optimizer_info(name).second_order:
        raise SettingsError(
            f"the optimizer '{name}' asks for second derivatives, which no step computes: choose another"
        )
    try:
        return _optimizer(network, settings)
    except (AssertionError, ImportError) as error:
        raise SettingsError(f"the optimizer '{name}' cannot be had on this machine: {error}") from error


def _optimizer(network: nn.Module, settings: TrainSettings) -> torch.optim.Optimizer:
    name = settings.optimizer
    if isinstance(network, HeadedNet):
        return create_optimizer_v2(_headed_groups(network, settings), name, lr=settings.lr)
    decay = settings.layer_decay if settings.layer_decay < 1 else None
    return create_optimizer_v2(network, name, lr=settings.lr, weight_decay=settings.weight_decay, layer_decay=decay)


def make_scheduler(optimizer: torch.optim.Optimizer, lr: float, steps: int) -> CosineLRScheduler:
    """A linear rise and a cosine's fall over so many steps."""
    warmup = math.ceil(WARMUP_SHARE * steps)
    return CosineLRScheduler(optimizer, t_initial=steps, warmup_t=warmup, warmup_lr_init=lr / warmup, t_in_epochs=False)


def _headed_groups(network: HeadedNet, settings: TrainSettings) -> list[dict[str, Any]]:
    """The head at the full rate; the backbone's layers decayed from its last to its first."""
    backbone: Any = network.backbone
    exempt = backbone.no_weight_decay() if hasattr(backbone, "no_weight_decay") else ()
    groups = param_groups_layer_decay(
        backbone, settings.weight_decay, no_weight_decay_list=exempt, layer_decay=settings.layer_decay
    )
    return [*groups, *param_groups_weight_decay(network.head, settings.weight_decay)]
