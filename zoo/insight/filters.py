"""The first layer's filters as an image. Only these weights have the channels of an image."""

import math

import torch
from PIL import Image
from torch import nn

from zoo.errors import SettingsError

TILE_PX, GAP_PX = 40, 4


def filter_image(network: nn.Module) -> Image.Image:
    """Return a grid of the first 2-D convolution's filters: in colour for 3 channels, else their mean in grey.

    All filters share one scale, in which mid grey is 0.

    Raises:
        SettingsError: the network has no 2-D convolution.
    """
    first = next((module for module in network.modules() if isinstance(module, nn.Conv2d)), None)
    if first is None:
        raise SettingsError("the network has no 2-D convolution, so there are no filters to show")
    weight = first.weight.detach().float().cpu()  # (filters, C, H, W)
    colours = weight if weight.shape[1] == 3 else weight.mean(1, keepdim=True).expand(-1, 3, -1, -1)
    pixels = (127.5 + 127.5 * colours / colours.abs().max().clamp(min=1e-12)).round().to(torch.uint8)
    columns = math.ceil(math.sqrt(len(pixels)))
    step = TILE_PX + GAP_PX
    sheet = Image.new("RGB", (columns * step + GAP_PX, math.ceil(len(pixels) / columns) * step + GAP_PX), "white")
    for index, tile in enumerate(pixels):
        image = Image.fromarray(tile.permute(1, 2, 0).contiguous().numpy())
        corner = (GAP_PX + index % columns * step, GAP_PX + index // columns * step)
        sheet.paste(image.resize((TILE_PX, TILE_PX), Image.Resampling.NEAREST), corner)
    return sheet
