"""A small VGG: Simonyan and Zisserman, https://arxiv.org/abs/1409.1556.

Stacks of 3x3 convolutions, a pool after each stack, twice the width after each pool; one full connection at the end.
"""

from typing import Any, ClassVar

from timm.layers import ClassifierHead
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn

from zoo.networks.base import Net, default_cfg, level
from zoo.networks.blocks import Dropout, GlobalPool, Norm, Pool, conv_norm_act, he_init, pool2d, stage


class VggTiny(Net):
    """Three stacks of two 3x3 convolutions of 32, 64 and 128 filters.

    Takes (N, C, H, W) with H and W multiples of 8 and gives (N, num_classes) logits.
    """

    layer_groups: ClassVar = {"stem": r"^stack1\.0\.", "blocks": r"^stack(\d)\.(\d)"}

    def __init__(
        self,
        num_classes: int = 10,
        in_chans: int = 3,
        global_pool: GlobalPool = "avg",
        pool: Pool = "max",
        norm: Norm = "batch",
        drop_rate: float = 0.0,
        stage_drop_rate: float = 0.0,
        stage_dropout: Dropout = "spatial",
    ) -> None:
        levels = (level("stack1", 32, 1), level("stack2", 64, 2), level("stack3", 128, 4), level("pool3", 128, 8))
        super().__init__(num_classes=num_classes, in_chans=in_chans, num_features=128, feature_info=levels)

        def stack(in_channels: int, out_channels: int) -> nn.Sequential:
            first = conv_norm_act(in_channels, out_channels, 3, norm=norm)
            second = conv_norm_act(out_channels, out_channels, 3, norm=norm)
            return stage(first, second, drop_rate=stage_drop_rate, dropout=stage_dropout)

        self.stack1 = stack(in_chans, 32)
        self.pool1 = pool2d(pool, 32)
        self.stack2 = stack(32, 64)
        self.pool2 = pool2d(pool, 64)
        self.stack3 = stack(64, 128)
        self.pool3 = pool2d(pool, 128)
        self.head = ClassifierHead(128, num_classes, pool_type=global_pool, drop_rate=drop_rate)
        he_init(self)

    def forward_features(self, x: Tensor) -> Tensor:
        x = self.pool1(self.run(self.stack1, x))  # (N, 32, H/2, W/2)
        x = self.pool2(self.run(self.stack2, x))  # (N, 64, H/4, W/4)
        y: Tensor = self.pool3(self.run(self.stack3, x))  # (N, 128, H/8, W/8)
        return y


default_cfgs = generate_default_cfgs(
    {"vgg_tiny": default_cfg((3, 32, 32), first_conv="stack1.0.conv", min_size=(8, 8))}
)


@register_model
def vgg_tiny(pretrained: bool = False, **kwargs: Any) -> VggTiny:
    """VggTiny as timm builds it; the keywords are VggTiny's and those of `timm.create_model`."""
    return build_model_with_cfg(VggTiny, "vgg_tiny", pretrained, feature_cfg={"out_indices": (0, 1, 2, 3)}, **kwargs)
