"""The all-convolutional network: Springenberg et al., "Striving for Simplicity", https://arxiv.org/abs/1412.6806.

Strided convolutions replace pooling, 1x1 convolutions replace hidden fully connected layers. It has half of the paper's
width. The paper averages class scores over positions, which equals classifying the averaged features as done here.
"""

from typing import ClassVar, Unpack

from torch import Tensor, nn

from zoo.networks.base import StagedNetwork, StagedOptions, feature_level, register
from zoo.networks.blocks import Norm, conv_norm_act, he_init


class AllConv(StagedNetwork):
    """All-CNN-C: 3x3 convolutions, every third with stride 2, then one of 1x1 and a global average pool.

    Input: (N, C, H, W), H and W at least 4. Output: logits (N, num_classes).
    """

    input_size, min_size, first_conv = (3, 32, 32), (4, 4), "stage1.0.conv"
    feature_levels = feature_level("stage1", 48, 2), feature_level("stage2", 96, 4), feature_level("stage3", 96, 4)
    layer_groups: ClassVar = {"stem": r"^stage1\.0\.", "blocks": r"^stage(\d)\.(\d)"}

    def __init__(self, *, norm: Norm = "batch", **options: Unpack[StagedOptions]) -> None:
        super().__init__(**options)
        self.stage1 = self.stage(
            conv_norm_act(self.in_chans, 48, 3, norm=norm),
            conv_norm_act(48, 48, 3, norm=norm),
            conv_norm_act(48, 48, 3, stride=2, norm=norm),
        )
        self.stage2 = self.stage(
            conv_norm_act(48, 96, 3, norm=norm),
            conv_norm_act(96, 96, 3, norm=norm),
            conv_norm_act(96, 96, 3, stride=2, norm=norm),
        )
        self.stage3 = nn.Sequential(conv_norm_act(96, 96, 3, norm=norm), conv_norm_act(96, 96, 1, norm=norm))
        self.add_head(96)
        he_init(self)

    def forward_features(self, x: Tensor) -> Tensor:
        x = self.run(self.stage1, x)  # (N, 48, H/2, W/2)
        x = self.run(self.stage2, x)  # (N, 96, H/4, W/4)
        return self.run(self.stage3, x)  # (N, 96, H/4, W/4)


allconv = register("allconv", AllConv)
