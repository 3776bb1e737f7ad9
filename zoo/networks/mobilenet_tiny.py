"""A small MobileNet: Howard et al., https://arxiv.org/abs/1704.04861.

A depthwise separable convolution filters each channel alone (3x3, as many groups as channels), then mixes the channels
(1x1): about a ninth of the multiplications of a full 3x3 convolution.
"""

from collections import OrderedDict
from typing import ClassVar, Unpack

from torch import Tensor, nn

from zoo.networks.base import StagedNetwork, StagedOptions, feature_level, register
from zoo.networks.blocks import Norm, conv_norm_act, he_init


def separable(in_channels: int, out_channels: int, *, stride: int = 1, norm: Norm) -> nn.Sequential:
    """Return a 3x3 convolution of each channel, followed by a 1x1 convolution over all channels."""
    depthwise = conv_norm_act(in_channels, in_channels, 3, stride=stride, groups=in_channels, norm=norm)
    pointwise = conv_norm_act(in_channels, out_channels, 1, norm=norm)
    return nn.Sequential(OrderedDict(depthwise=depthwise, pointwise=pointwise))


class MobileNetTiny(StagedNetwork):
    """A 3x3 convolution, then three stages of two depthwise separable convolutions of 32, 64 and 128 channels.

    Input: (N, C, H, W), H and W at least 4. Output: logits (N, num_classes).
    """

    input_size, min_size, first_conv = (3, 32, 32), (4, 4), "stem.conv"
    feature_levels = feature_level("stage1", 32, 1), feature_level("stage2", 64, 2), feature_level("stage3", 128, 4)
    layer_groups: ClassVar = {"stem": r"^stem\.", "blocks": r"^stage(\d)\.(\d)"}

    def __init__(self, *, norm: Norm = "batch", **options: Unpack[StagedOptions]) -> None:
        super().__init__(**options)
        self.stem = conv_norm_act(self.in_chans, 16, 3, norm=norm)
        self.stage1 = self.stage(separable(16, 32, norm=norm), separable(32, 32, norm=norm))
        self.stage2 = self.stage(separable(32, 64, stride=2, norm=norm), separable(64, 64, norm=norm))
        self.stage3 = self.stage(separable(64, 128, stride=2, norm=norm), separable(128, 128, norm=norm))
        self.add_head(128)
        he_init(self)

    def forward_features(self, x: Tensor) -> Tensor:
        x = self.run(self.stem, x)  # (N, 16, H, W)
        x = self.run(self.stage1, x)  # (N, 32, H, W)
        x = self.run(self.stage2, x)  # (N, 64, H/2, W/2)
        return self.run(self.stage3, x)  # (N, 128, H/4, W/4)


mobilenet_tiny = register("mobilenet_tiny", MobileNetTiny)
