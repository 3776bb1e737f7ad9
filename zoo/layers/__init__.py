"""Layers that PyTorch lacks. Each has those attributes of nn.Conv2d that apply, so that arithmetic can read them."""

from zoo.layers.blur import BlurPool2d
from zoo.layers.left_out import LeftOut
from zoo.layers.local import LocallyConnected1d, LocallyConnected2d
from zoo.layers.true_conv import TrueConv1d, TrueConv2d
from zoo.layers.windows import Padding, count_windows, resolve_padding

__all__ = [
    "BlurPool2d",
    "LeftOut",
    "LocallyConnected1d",
    "LocallyConnected2d",
    "Padding",
    "TrueConv1d",
    "TrueConv2d",
    "count_windows",
    "resolve_padding",
]
