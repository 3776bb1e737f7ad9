"""What every network of timm's interface knows of itself, with the types that `nn.Module` hides."""

from typing import Any, cast

from torch import nn


def config_of(network: nn.Module) -> dict[str, Any]:
    """Timm's `pretrained_cfg`: the architecture's name, what it expects of images, its first and last layer."""
    return cast("dict[str, Any]", network.pretrained_cfg)


def classes_of(network: nn.Module) -> int:
    """The number of classes; 0 for a network without a classifier."""
    return cast("int", network.num_classes)
