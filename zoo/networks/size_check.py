"""Check that the windows of convolutions and pools fit their inputs; an error names the layer."""

import copy

import torch
from torch import Tensor, nn

from zoo.errors import SettingsError
from zoo.layers import BlurPool2d, count_windows

Size = tuple[int, ...]
WINDOWED = (nn.Conv1d, nn.Conv2d, nn.MaxPool1d, nn.MaxPool2d, nn.AvgPool1d, nn.AvgPool2d, BlurPool2d)


def size_after(path: str, layer: nn.Module, size: Size) -> Size:
    """Return the output size of a convolution or pool at `path`, one number per axis.

    Raises:
        SettingsError: the window does not fit the input, or does not cover the end of an axis.
    """
    names = ("kernel_size", "stride", "padding", "dilation")
    windows = zip(*(_per_axis(getattr(layer, name, 1), len(size)) for name in names), strict=True)
    try:
        return tuple(count_windows(length, *window) for length, window in zip(size, windows, strict=True))
    except SettingsError as error:
        text = "x".join(map(str, size))
        raise SettingsError(f"layer '{path}' does not accept an input of size {text}: {error}") from error


def check_size(network: nn.Module, input_size: tuple[int, int, int]) -> None:
    """Check every window of `network` for an image (C, H, W), by shape propagation on the meta device.

    Raises:
        SettingsError: see `size_after`.
    """
    meta_network = copy.deepcopy(network).to("meta").eval()

    def check(path: str, layer: nn.Module, x: Tensor) -> None:
        size_after(path, layer, tuple(x.shape[2:]))

    for path, module in meta_network.named_modules():
        if isinstance(module, WINDOWED):
            module.register_forward_pre_hook(lambda layer, inputs, path=path: check(path, layer, inputs[0]))
    meta_network(torch.empty(1, *input_size, device="meta"))


def _per_axis(value: int | Size, axes: int) -> Size:
    return (value,) * axes if isinstance(value, int) else value
