"""Four bottlenecks: 1x1 convolutions reduce the channels before each 3x3 convolution and restore them after it."""

from collections import OrderedDict
from typing import ClassVar, Unpack

from torch import Tensor, nn

from zoo.networks.base import StagedNetwork, StagedOptions, feature_level, register
from zoo.networks.blocks import Norm, Pool, conv_norm_act, he_init, pool2d

REDUCTION = 4  # channels of a bottleneck divided by those of its 3x3 convolution


def bottleneck(channels: int, norm: Norm) -> nn.Sequential:
    """Return 1x1 to a quarter of the channels, 3x3 and 1x1 back: 17 C^2 / 16 weights instead of 9 C^2."""
    narrow = channels // REDUCTION
    return nn.Sequential(
        OrderedDict(
            squeeze=conv_norm_act(channels, narrow, 1, norm=norm),
            filter=conv_norm_act(narrow, narrow, 3, norm=norm),
            expand=conv_norm_act(narrow, channels, 1, norm=norm),
        )
    )


class Bottleneck4(StagedNetwork):
    """Two bottlenecks of 32 channels, a pool, two of 64, then a global average pool and a linear classifier.

    Input: (N, C, H, W), H and W multiples of 2. Output: logits (N, num_classes).
    """

    input_size, min_size, first_conv = (1, 8, 8), (2, 2), "stem.conv"
    feature_levels = feature_level("stage1", 32, 1), feature_level("stage2", 64, 2)
    layer_groups: ClassVar = {"stem": r"^stem\.", "blocks": r"^(?:stage|widen)(\d)"}

    def __init__(self, *, pool: Pool = "max", norm: Norm = "batch", **options: Unpack[StagedOptions]) -> None:
        super().__init__(**options)
        self.stem = conv_norm_act(self.in_chans, 32, 3, norm=norm)
        self.stage1 = self.stage(bottleneck(32, norm), bottleneck(32, norm))
        self.pool = pool2d(pool, 32)
        self.widen2 = conv_norm_act(32, 64, 1, norm=norm)
        self.stage2 = self.stage(bottleneck(64, norm), bottleneck(64, norm))
        self.add_head(64)
        he_init(self)

    def forward_features(self, x: Tensor) -> Tensor:
        x = self.run(self.stem, x)  # (N, 32, H, W)
        x = self.pool(self.run(self.stage1, x))  # (N, 32, H/2, W/2)
        x = self.widen2(x)  # (N, 64, H/2, W/2)
        return self.run(self.stage2, x)  # (N, 64, H/2, W/2)


bottleneck4 = register("bottleneck4", Bottleneck4)
