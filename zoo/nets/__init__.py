"""The networks, one family a file. Importing this package registers them with timm."""

from zoo.nets.allconv import AllConv, allconv
from zoo.nets.bottleneck4 import Bottleneck4, bottleneck4
from zoo.nets.convnet4 import ConvNet4, convnet4
from zoo.nets.convnext4 import ConvNext4, convnext4
from zoo.nets.lenet5 import LeNet5, lenet5
from zoo.nets.localnet import LocalNet, localnet
from zoo.nets.mlp import Mlp, mlp
from zoo.nets.mobilenet_tiny import MobileNetTiny, mobilenet_tiny
from zoo.nets.net import Net
from zoo.nets.resnet_cifar import CifarResNet, resnet8, resnet20, resnet56
from zoo.nets.signal1d import Signal1d, signal1d
from zoo.nets.vgg_tiny import VggTiny, vgg_tiny

__all__ = [
    "AllConv",
    "Bottleneck4",
    "CifarResNet",
    "ConvNet4",
    "ConvNext4",
    "LeNet5",
    "LocalNet",
    "Mlp",
    "MobileNetTiny",
    "Net",
    "Signal1d",
    "VggTiny",
    "allconv",
    "bottleneck4",
    "convnet4",
    "convnext4",
    "lenet5",
    "localnet",
    "mlp",
    "mobilenet_tiny",
    "resnet8",
    "resnet20",
    "resnet56",
    "signal1d",
    "vgg_tiny",
]
