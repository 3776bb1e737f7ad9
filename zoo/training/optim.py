"""Optimisers and the learning rate schedule, both timm's."""

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
from zoo.transfer.heads import HeadedNetwork

# timm warns on stderr about a schedule of a single step, and about layer decay in a backbone of a single layer. Both
# are harmless.
for logger_name in ("timm.scheduler.cosine_lr", "timm.optim._param_groups"):
    logging.getLogger(logger_name).setLevel(logging.ERROR)

WARMUP_SHARE = 0.1  # of all steps


def make_optimizer(network: nn.Module, settings: TrainSettings) -> torch.optim.Optimizer:
    """Return the optimiser of all parameters; frozen ones have no gradient and therefore stay as they are.

    With `layer_decay`, a layer's learning rate is that multiple of the rate of the next layer towards the classifier.

    Raises:
        SettingsError: timm has no such optimiser, its package is missing, or it needs second derivatives.
    """
    name, known = settings.optimizer, [str(known) for known in list_optimizers()]
    if name not in known:
        raise SettingsError(f"timm has no optimizer '{name}'{did_you_mean(name, known)}")
    if get_optimizer_info(name).second_order:
        raise SettingsError(
            f"the optimizer '{name}' needs second derivatives, which training does not compute; choose another"
        )
    try:
        return _create_optimizer(network, settings)
    except (AssertionError, ImportError) as error:
        raise SettingsError(f"the optimizer '{name}' is not available on this machine: {error}") from error


def make_scheduler(optimizer: torch.optim.Optimizer, lr: float, steps: int) -> CosineLRScheduler:
    """Return a schedule that warms up linearly to `lr`, then follows a cosine down to 0, over `steps` steps."""
    warmup = math.ceil(WARMUP_SHARE * steps)
    return CosineLRScheduler(optimizer, t_initial=steps, warmup_t=warmup, warmup_lr_init=lr / warmup, t_in_epochs=False)


def _create_optimizer(network: nn.Module, settings: TrainSettings) -> torch.optim.Optimizer:
    name = settings.optimizer
    if isinstance(network, HeadedNetwork):
        return create_optimizer_v2(_headed_groups(network, settings), name, lr=settings.lr)
    decay = settings.layer_decay if settings.layer_decay < 1 else None
    return create_optimizer_v2(network, name, lr=settings.lr, weight_decay=settings.weight_decay, layer_decay=decay)


def _headed_groups(network: HeadedNetwork, settings: TrainSettings) -> list[dict[str, Any]]:
    """Return parameter groups: the head at the full rate, the backbone's layers decayed from the last to the first."""
    backbone: Any = network.backbone
    without_decay = backbone.no_weight_decay() if hasattr(backbone, "no_weight_decay") else ()
    groups = param_groups_layer_decay(
        backbone, settings.weight_decay, no_weight_decay_list=without_decay, layer_decay=settings.layer_decay
    )
    return [*groups, *param_groups_weight_decay(network.head, settings.weight_decay)]
