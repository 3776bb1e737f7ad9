"""The all-convolutional network: Springenberg et al., "Striving for Simplicity", https://arxiv.org/abs/1412.6806.

Strided convolutions take the place of pools, 1x1 convolutions that of hidden full connections. Half of the paper's
width; its class scores are averaged over positions, which is the same as classifying the averaged features.
"""

from typing import Any, ClassVar

from timm.layers import ClassifierHead
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor

from zoo.networks.base import Net, default_cfg, level
from zoo.networks.blocks import Dropout, GlobalPool, Norm, conv_norm_act, he_init, stage


class AllConv(Net):
    """Model All-CNN-C: 3x3 convolutions, every third with stride 2, then two of 1x1 and a global average pool.

    Takes (N, C, H, W) with H and W of at least 4 and gives (N, num_classes) logits.
    """

    layer_groups: ClassVar = {"stem": r"^stage1\.0\.", "blocks": r"^stage(\d)\.(\d)"}

    def __init__(
        self,
        num_classes: int = 10,
        in_chans: int = 3,
        global_pool: GlobalPool = "avg",
        norm: Norm = "batch",
        drop_rate: float = 0.0,
        stage_drop_rate: float = 0.0,
        stage_dropout: Dropout = "spatial",
    ) -> None:
        levels = (level("stage1", 48, 2), level("stage2", 96, 4), level("stage3", 96, 4))
        super().__init__(num_classes=num_classes, in_chans=in_chans, num_features=96, feature_info=levels)
        self.stage1 = stage(
            conv_norm_act(in_chans, 48, 3, norm=norm),
            conv_norm_act(48, 48, 3, norm=norm),
            conv_norm_act(48, 48, 3, stride=2, norm=norm),
            drop_rate=stage_drop_rate,
            dropout=stage_dropout,
        )
        self.stage2 = stage(
            conv_norm_act(48, 96, 3, norm=norm),
            conv_norm_act(96, 96, 3, norm=norm),
            conv_norm_act(96, 96, 3, stride=2, norm=norm),
            drop_rate=stage_drop_rate,
            dropout=stage_dropout,
        )
        self.stage3 = stage(
            conv_norm_act(96, 96, 3, norm=norm),
            conv_norm_act(96, 96, 1, norm=norm),
            drop_rate=0.0,
            dropout=stage_dropout,
        )
        self.head = ClassifierHead(96, num_classes, pool_type=global_pool, drop_rate=drop_rate)
        he_init(self)

    def forward_features(self, x: Tensor) -> Tensor:
        x = self.run(self.stage1, x)  # (N, 48, H/2, W/2)
        x = self.run(self.stage2, x)  # (N, 96, H/4, W/4)
        return self.run(self.stage3, x)  # (N, 96, H/4, W/4)


default_cfgs = generate_default_cfgs({"allconv": default_cfg((3, 32, 32), first_conv="stage1.0.conv", min_size=(4, 4))})


@register_model
def allconv(pretrained: bool = False, **kwargs: Any) -> AllConv:
    """AllConv as timm builds it; the keywords are AllConv's and those of `timm.create_model`."""
    return build_model_with_cfg(AllConv, "allconv", pretrained, feature_cfg={"out_indices": (0, 1, 2)}, **kwargs)
