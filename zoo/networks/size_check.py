"""Whether a network's windows fit on an image: an illegal size is an error that names the layer."""

import copy

import torch
from torch import Tensor, nn

from zoo.errors import SettingsError
from zoo.layers import BlurPool2d, count_windows

Size = tuple[int, ...]
WINDOWED = (nn.Conv1d, nn.Conv2d, nn.MaxPool1d, nn.MaxPool2d, nn.AvgPool1d, nn.AvgPool2d, BlurPool2d)


def size_after(path: str, layer: nn.Module, size: Size) -> Size:
    """The size of each axis after a convolution or pool.

    Raises:
        SettingsError: the window does not fit, or leaves the end of an axis unseen.
    """
    names = ("kernel_size", "stride", "padding", "dilation")
    windows = zip(*(_per_axis(getattr(layer, name, 1), len(size)) for name in names), strict=True)
    try:
        return tuple(count_windows(length, *window) for length, window in zip(size, windows, strict=True))
    except SettingsError as error:
        came = "x".join(map(str, size))
        raise SettingsError(f"the layer '{path}' does not take a size of {came}: {error}") from error


def check_size(network: nn.Module, input_size: tuple[int, int, int]) -> None:
    """Send the shape of one image (C, H, W) through the network, without computing, and look at every window.

    Raises:
        SettingsError: see `size_after`.
    """
    shapes = copy.deepcopy(network).to("meta").eval()
    for path, module in shapes.named_modules():
        if isinstance(module, WINDOWED):
            module.register_forward_pre_hook(lambda layer, given, path=path: _look(path, layer, given[0]))
    shapes(torch.empty(1, *input_size, device="meta"))


def _look(path: str, layer: nn.Module, x: Tensor) -> None:
    size_after(path, layer, tuple(x.shape[2:]))


def _per_axis(value: int | Size, axes: int) -> Size:
    return (value,) * axes if isinstance(value, int) else value
