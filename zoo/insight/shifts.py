"""Shift equivariance of a layer. Convolutions have it; strides and pools break it."""

import copy
import math

import torch
from torch import Tensor, nn

from zoo.errors import SettingsError
from zoo.geometry.measure import measure
from zoo.insight.responses import response


def shift_error(network: nn.Module, layer: str, x: Tensor, shift_px: int) -> float:
    """Return the equivariance error of a layer when the images `x`, (N, C, H, W), are shifted right by `shift_px`.

    This is the relative L2 distance between the response to the shifted image and the shifted response: 0 for a layer
    that is equivariant to this shift. Only units whose receptive field lies inside both images are compared. If the
    layer's stride is above one pixel, its response is shifted by the nearest whole number of units.

    Raises:
        SettingsError: every unit sees the whole image, or no unit remains to compare.
    """
    fields = measure(copy.deepcopy(network).to("meta"), tuple(x.shape[1:]))[layer].fields
    if not fields or fields[-1].sees_whole_axis:
        raise SettingsError(f"every unit of layer '{layer}' sees the whole image: there is nothing to shift")
    with torch.no_grad():
        original = response(network, layer, x)
        shifted = response(network, layer, torch.roll(x, shift_px, dims=-1))
    stride = x.shape[-1] / original.shape[-1]
    shift_units = round(shift_px / stride)
    margin = math.ceil((fields[-1].size + shift_px) / stride)
    inside = slice(margin + shift_units, original.shape[-1] - margin)
    expected, actual = torch.roll(original, shift_units, dims=-1)[..., inside], shifted[..., inside]
    if actual.numel() == 0:
        raise SettingsError(f"no unit of layer '{layer}' lies {margin} units from the border: use larger images")
    return float((actual - expected).norm() / expected.norm())
