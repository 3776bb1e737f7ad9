"""The networks, one family per file. Importing this package registers them with timm."""

from zoo.networks.allconv import AllConv, allconv
from zoo.networks.base import Network
from zoo.networks.bottleneck4 import Bottleneck4, bottleneck4
from zoo.networks.convnet4 import ConvNet4, convnet4
from zoo.networks.convnext4 import ConvNext4, convnext4
from zoo.networks.lenet5 import LeNet5, lenet5
from zoo.networks.localnet import LocalNet, localnet
from zoo.networks.mlp import Mlp, mlp
from zoo.networks.mobilenet_tiny import MobileNetTiny, mobilenet_tiny
from zoo.networks.resnet_cifar import CifarResNet, resnet8, resnet20, resnet56
from zoo.networks.signal1d import Signal1d, signal1d
from zoo.networks.vgg_tiny import VggTiny, vgg_tiny

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
    "Network",
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
