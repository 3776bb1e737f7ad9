"""A small VGG: Simonyan and Zisserman, https://arxiv.org/abs/1409.1556.

Stacks of 3x3 convolutions, a pool after each stack, twice the width after each pool. The classifier is its only fully
connected layer, where the paper has three.
"""

from typing import ClassVar, Unpack

from torch import Tensor, nn

from zoo.networks.base import StagedNetwork, StagedOptions, feature_level, register
from zoo.networks.blocks import Norm, Pool, conv_norm_act, he_init, pool2d


class VggTiny(StagedNetwork):
    """Three stacks of two 3x3 convolutions of 32, 64 and 128 filters.

    Input: (N, C, H, W), H and W multiples of 8. Output: logits (N, num_classes).
    """

    input_size, min_size, first_conv = (3, 32, 32), (8, 8), "stack1.0.conv"
    feature_levels = (
        feature_level("stack1", 32, 1),
        feature_level("stack2", 64, 2),
        feature_level("stack3", 128, 4),
        feature_level("pool3", 128, 8),
    )
    layer_groups: ClassVar = {"stem": r"^stack1\.0\.", "blocks": r"^stack(\d)\.(\d)"}

    def __init__(self, *, pool: Pool = "max", norm: Norm = "batch", **options: Unpack[StagedOptions]) -> None:
        super().__init__(**options)

        def stack(in_channels: int, out_channels: int) -> nn.Sequential:
            first = conv_norm_act(in_channels, out_channels, 3, norm=norm)
            return self.stage(first, conv_norm_act(out_channels, out_channels, 3, norm=norm))

        self.stack1 = stack(self.in_chans, 32)
        self.pool1 = pool2d(pool, 32)
        self.stack2 = stack(32, 64)
        self.pool2 = pool2d(pool, 64)
        self.stack3 = stack(64, 128)
        self.pool3 = pool2d(pool, 128)
        self.add_head(128)
        he_init(self)

    def forward_features(self, x: Tensor) -> Tensor:
        x = self.pool1(self.run(self.stack1, x))  # (N, 32, H/2, W/2)
        x = self.pool2(self.run(self.stack2, x))  # (N, 64, H/4, W/4)
        y: Tensor = self.pool3(self.run(self.stack3, x))  # (N, 128, H/8, W/8)
        return y


vgg_tiny = register("vgg_tiny", VggTiny)
