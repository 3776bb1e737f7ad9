"""Residual networks for 32x32 images: He et al., https://arxiv.org/abs/1512.03385, section 4.2.

6n + 2 layers: a 3x3 convolution, three stages of n blocks of two convolutions, a classifier. Where a block changes the
shape, its shortcut is the paper's option B, a 1x1 convolution. Its stride, which would discard three of four pixels, is
replaced by an average pool before it, as in ResNet-D: He et al., https://arxiv.org/abs/1812.01187.
"""

from typing import ClassVar, Unpack

from torch import Tensor, nn

from zoo.networks.base import StagedNetwork, StagedOptions, feature_level, register
from zoo.networks.blocks import Norm, conv_norm_act, he_init, norm2d


class BasicBlock(nn.Module):
    """relu(f(x) + shortcut(x)), where f is two 3x3 convolutions."""

    def __init__(self, in_channels: int, channels: int, stride: int, norm: Norm) -> None:
        super().__init__()
        bias = norm == "none"
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=bias)
        self.bn1 = norm2d(norm, channels)
        self.act1 = nn.ReLU()
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=bias)
        self.bn2 = norm2d(norm, channels)
        self.shortcut = nn.Sequential()
        if stride != 1:
            self.shortcut.add_module("pool", nn.AvgPool2d(stride))
        if in_channels != channels:
            self.shortcut.add_module("conv", nn.Conv2d(in_channels, channels, 1, bias=bias))
            self.shortcut.add_module("bn", norm2d(norm, channels))
        self.act2 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        y = self.act1(self.bn1(self.conv1(x)))  # (N, channels, H/stride, W/stride)
        y = self.bn2(self.conv2(y))
        z: Tensor = self.act2(y + self.shortcut(x))
        return z


class CifarResNet(StagedNetwork):
    """Three stages of `blocks` residual blocks each, of 16, 32 and 64 channels.

    Input: (N, C, H, W), H and W multiples of 4. Output: logits (N, num_classes).
    """

    input_size, min_size, first_conv = (3, 32, 32), (4, 4), "stem.conv"
    feature_levels = feature_level("layer1", 16, 1), feature_level("layer2", 32, 2), feature_level("layer3", 64, 4)
    layer_groups: ClassVar = {"stem": r"^stem\.", "blocks": r"^layer(\d)\.(\d+)"}

    def __init__(self, *, blocks: int, norm: Norm = "batch", **options: Unpack[StagedOptions]) -> None:
        super().__init__(**options)

        def layer(in_channels: int, channels: int, stride: int) -> nn.Sequential:
            first = BasicBlock(in_channels, channels, stride, norm)
            return self.stage(first, *(BasicBlock(channels, channels, 1, norm) for _ in range(blocks - 1)))

        self.stem = conv_norm_act(self.in_chans, 16, 3, norm=norm)
        self.layer1 = layer(16, 16, stride=1)
        self.layer2 = layer(16, 32, stride=2)
        self.layer3 = layer(32, 64, stride=2)
        self.add_head(64)
        he_init(self)

    def forward_features(self, x: Tensor) -> Tensor:
        x = self.run(self.stem, x)  # (N, 16, H, W)
        x = self.run(self.layer1, x)  # (N, 16, H, W)
        x = self.run(self.layer2, x)  # (N, 32, H/2, W/2)
        return self.run(self.layer3, x)  # (N, 64, H/4, W/4)


resnet8 = register("resnet8", CifarResNet, blocks=1)
resnet20 = register("resnet20", CifarResNet, blocks=3)
resnet56 = register("resnet56", CifarResNet, blocks=9)
