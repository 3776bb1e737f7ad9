"""Does a layer's response move with the image? A convolution's does; strides and pools break it."""

import copy
import math

import torch
from torch import Tensor, nn

from zoo.errors import SettingsError
from zoo.geometry.measure import measure
from zoo.insight.responses import response


def shift_error(network: nn.Module, layer: str, x: Tensor, shift_px: int) -> float:
    """How far a layer is from moving its response when the images `x`, (N, C, H, W), move right by `shift_px`.

    The relative L2 distance between the response to the shifted image and the shifted response, 0 for a layer that
    is equivariant to this shift. Only units whose field lies inside both images count. A layer that steps by more
    than a pixel cannot move its response by a part of a step: the nearest whole number of steps is taken.

    Raises:
        SettingsError: the layer has no places, or its field leaves no unit to compare.
    """
    field = measure(copy.deepcopy(network).to("meta"), tuple(x.shape[1:]))[layer].fields
    if not field or field[-1].whole:
        raise SettingsError(f"every unit of the layer '{layer}' sees the whole image: there is nothing to shift")
    with torch.no_grad():
        still = response(network, layer, x)
        moved = response(network, layer, torch.roll(x, shift_px, dims=-1))
    step = x.shape[-1] / still.shape[-1]
    steps = round(shift_px / step)
    margin = math.ceil((field[-1].size + shift_px) / step)
    inside = slice(margin + steps, still.shape[-1] - margin)
    expected, found = torch.roll(still, steps, dims=-1)[..., inside], moved[..., inside]
    if found.numel() == 0:
        raise SettingsError(f"no unit of the layer '{layer}' lies {margin} places from the border: take larger images")
    return float((found - expected).norm() / expected.norm())
