"""The places in real images to which a channel responds most: what a deeper layer's filter looks for."""

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from zoo.errors import SettingsError
from zoo.geometry.measure import measure
from zoo.insight.responses import response


@dataclass(frozen=True)
class Patch:
    """A part of image `index`: its rows and columns, clipped to the image, and the response there."""

    index: int
    rows: range
    columns: range
    response: float


def strongest_patches(network: nn.Module, layer: str, channel: int, x: Tensor, count: int = 9) -> list[Patch]:
    """Return the best place of each of the `count` images of `x`, (N, C, H, W), that respond most, best first.

    Raises:
        SettingsError: the layer has no two axes of places, or no such channel.
    """
    with torch.no_grad():
        given = response(network, layer, x)
    if given.ndim != 4 or not 0 <= channel < given.shape[1]:
        raise SettingsError(f"channel {channel} of '{layer}' is no map: the layer gives {tuple(given.shape[1:])}")
    fields = measure(copy.deepcopy(network).to("meta"), tuple(x.shape[1:]))[layer].fields
    if not fields:
        raise SettingsError(f"it is not known what the units of the layer '{layer}' see")
    best, places = given[:, channel].flatten(1).max(dim=1)
    patches = []
    for index in best.argsort(descending=True)[:count].tolist():
        row, column = divmod(int(places[index]), given.shape[-1])
        rows, columns = (field.box(at) for field, at in zip(fields, (row, column), strict=True))
        patches.append(Patch(index, rows, columns, float(best[index])))
    return patches
