"""The networks, one family a file. Importing this package registers them with timm."""

from zoo.nets.convnet4 import ConvNet4, convnet4

__all__ = ["ConvNet4", "convnet4"]
