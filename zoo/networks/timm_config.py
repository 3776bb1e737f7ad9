"""Typed access to attributes of timm's model interface, which `nn.Module` hides from the type checker."""

from typing import Any, cast

from torch import nn


def config_of(network: nn.Module) -> dict[str, Any]:
    """Return timm's `pretrained_cfg`: the architecture's name, its data configuration, its first and last layer."""
    return cast("dict[str, Any]", network.pretrained_cfg)


def classes_of(network: nn.Module) -> int:
    """Return the number of classes; 0 for a network without a classifier."""
    return cast("int", network.num_classes)
