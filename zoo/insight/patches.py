"""The parts of real images to which a channel responds most: what a deeper layer's filter detects."""

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from zoo.errors import SettingsError
from zoo.geometry.measure import measure
from zoo.insight.responses import response


@dataclass(frozen=True)
class Patch:
    """A part of an image.

    Attributes:
        index: index of the image.
        rows: pixel rows of the unit's receptive field, clipped to the image.
        columns: pixel columns of the field, likewise.
        response: the unit's response.
    """

    index: int
    rows: range
    columns: range
    response: float


def strongest_patches(network: nn.Module, layer: str, channel: int, x: Tensor, count: int = 9) -> list[Patch]:
    """Return the strongest patch of each image in `x`, (N, C, H, W), for the `count` strongest images, best first.

    Raises:
        SettingsError: the layer's output is not a 2-D feature map, or there is no such channel.
    """
    with torch.no_grad():
        output = response(network, layer, x)
    if output.ndim != 4 or not 0 <= channel < output.shape[1]:
        shape = tuple(output.shape[1:])
        raise SettingsError(f"channel {channel} of layer '{layer}' is not a feature map: the output has shape {shape}")
    fields = measure(copy.deepcopy(network).to("meta"), tuple(x.shape[1:]))[layer].fields
    if not fields:
        raise SettingsError(f"the receptive field of layer '{layer}' is unknown")
    strongest, positions = output[:, channel].flatten(1).max(dim=1)
    patches = []
    for index in strongest.argsort(descending=True)[:count].tolist():
        unit = divmod(int(positions[index]), output.shape[-1])  # row, column
        rows, columns = (field.box(position) for field, position in zip(fields, unit, strict=True))
        patches.append(Patch(index, rows, columns, float(strongest[index])))
    return patches
