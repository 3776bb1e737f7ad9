"""The placeholder of a removed layer."""

from torch import nn


class Removed(nn.Identity):
    """Pass the input through at the path of a layer that `zoo.transfer.truncate` removed."""
