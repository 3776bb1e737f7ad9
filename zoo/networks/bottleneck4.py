"""Four bottlenecks: a 1x1 convolution squeezes the channels, so that the 3x3 one has little to do."""

from collections import OrderedDict
from typing import Any, ClassVar

from timm.layers import ClassifierHead
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn

from zoo.networks.base import Net, default_cfg, level
from zoo.networks.blocks import Dropout, GlobalPool, Norm, Pool, conv_norm_act, he_init, pool2d, stage

SQUEEZE = 4  # how many times fewer channels the 3x3 convolution sees


def bottleneck(channels: int, norm: Norm) -> nn.Sequential:
    """1x1 to a quarter of the channels, 3x3 among these, 1x1 back: 17 C^2 / 16 weights instead of 9 C^2."""
    narrow = channels // SQUEEZE
    return nn.Sequential(
        OrderedDict(
            squeeze=conv_norm_act(channels, narrow, 1, norm=norm),
            filter=conv_norm_act(narrow, narrow, 3, norm=norm),
            expand=conv_norm_act(narrow, channels, 1, norm=norm),
        )
    )


class Bottleneck4(Net):
    """Two bottlenecks of 32 channels, a pool, two of 64, then global average pool and a linear classifier.

    Takes (N, C, H, W) with H and W multiples of 2 and gives (N, num_classes) logits.
    """

    layer_groups: ClassVar = {"stem": r"^stem\.", "blocks": r"^(?:stage|widen)(\d)"}

    def __init__(
        self,
        num_classes: int = 10,
        in_chans: int = 1,
        global_pool: GlobalPool = "avg",
        pool: Pool = "max",
        norm: Norm = "batch",
        drop_rate: float = 0.0,
        stage_drop_rate: float = 0.0,
        stage_dropout: Dropout = "spatial",
    ) -> None:
        levels = (level("stage1", 32, 1), level("stage2", 64, 2))
        super().__init__(num_classes=num_classes, in_chans=in_chans, num_features=64, feature_info=levels)

        def bottlenecks(channels: int) -> nn.Sequential:
            both = bottleneck(channels, norm), bottleneck(channels, norm)
            return stage(*both, drop_rate=stage_drop_rate, dropout=stage_dropout)

        self.stem = conv_norm_act(in_chans, 32, 3, norm=norm)
        self.stage1 = bottlenecks(32)
        self.pool = pool2d(pool, 32)
        self.widen2 = conv_norm_act(32, 64, 1, norm=norm)
        self.stage2 = bottlenecks(64)
        self.head = ClassifierHead(64, num_classes, pool_type=global_pool, drop_rate=drop_rate)
        he_init(self)

    def forward_features(self, x: Tensor) -> Tensor:
        x = self.run(self.stem, x)  # (N, 32, H, W)
        x = self.pool(self.run(self.stage1, x))  # (N, 32, H/2, W/2)
        x = self.widen2(x)  # (N, 64, H/2, W/2)
        return self.run(self.stage2, x)  # (N, 64, H/2, W/2)


default_cfgs = generate_default_cfgs({"bottleneck4": default_cfg((1, 8, 8), first_conv="stem.conv", min_size=(2, 2))})


@register_model
def bottleneck4(pretrained: bool = False, **kwargs: Any) -> Bottleneck4:
    """Bottleneck4 as timm builds it; the keywords are Bottleneck4's and those of `timm.create_model`."""
    return build_model_with_cfg(Bottleneck4, "bottleneck4", pretrained, feature_cfg={"out_indices": (0, 1)}, **kwargs)
