"""Saliency: the gradient of one unit with respect to the image."""

import torch
from torch import Tensor, nn

from zoo.insight.responses import response, unit


def saliency(network: nn.Module, layer: str, x: Tensor, channel: int, place: tuple[int, ...] = ()) -> Tensor:
    """Return d unit / d pixel for the images `x`, float (N, C, H, W), in the same shape.

    The unit is at index `place` of the layer's channel, by default in its middle. See https://arxiv.org/abs/1312.6034.

    Raises:
        SettingsError: there is no such layer or unit.
    """
    image = x.detach().clone().requires_grad_(True)
    with torch.enable_grad():
        value = unit(response(network, layer, image), channel, place).sum()
        (gradient,) = torch.autograd.grad(value, image)
    return gradient
