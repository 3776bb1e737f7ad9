"""Layers that PyTorch lacks.

They have the applicable attributes of nn.Conv2d (`kernel_size`, `stride`, ...), from which geometry is computed.
"""

from zoo.layers.blur import BlurPool2d
from zoo.layers.flipped_conv import TrueConv1d, TrueConv2d
from zoo.layers.locally_connected import LocallyConnected1d, LocallyConnected2d
from zoo.layers.padding import Padding, count_windows, resolve_padding
from zoo.layers.removed import Removed

__all__ = [
    "BlurPool2d",
    "LocallyConnected1d",
    "LocallyConnected2d",
    "Padding",
    "Removed",
    "TrueConv1d",
    "TrueConv2d",
    "count_windows",
    "resolve_padding",
]
