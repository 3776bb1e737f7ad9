"""What a network keeps of layers that were cut off."""

from torch import nn


class Removed(nn.Identity):
    """Stands under the path of a layer that was cut off, and hands its input on: see zoo/transfer/truncate.py."""
