"""A small MobileNet: Howard et al., https://arxiv.org/abs/1704.04861.

A depthwise separable convolution filters each channel by itself (3x3, as many groups as channels) and then mixes the
channels (1x1): about a ninth of the multiplications of a full 3x3 convolution.
"""

from collections import OrderedDict
from typing import Any, ClassVar

from timm.layers import ClassifierHead
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn

from zoo.networks.base import Net, default_cfg, level
from zoo.networks.blocks import Dropout, GlobalPool, Norm, conv_norm_act, he_init, stage


def separable(in_channels: int, out_channels: int, stride: int, norm: Norm) -> nn.Sequential:
    """A 3x3 convolution of each channel, then a 1x1 convolution over all of them."""
    depthwise = conv_norm_act(in_channels, in_channels, 3, stride=stride, groups=in_channels, norm=norm)
    pointwise = conv_norm_act(in_channels, out_channels, 1, norm=norm)
    return nn.Sequential(OrderedDict(depthwise=depthwise, pointwise=pointwise))


class MobileNetTiny(Net):
    """A 3x3 convolution, then three stages of two depthwise separable ones of 32, 64 and 128 channels.

    Takes (N, C, H, W) and gives (N, num_classes) logits.
    """

    layer_groups: ClassVar = {"stem": r"^stem\.", "blocks": r"^stage(\d)\.(\d)"}

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
        levels = (level("stage1", 32, 1), level("stage2", 64, 2), level("stage3", 128, 4))
        super().__init__(num_classes=num_classes, in_chans=in_chans, num_features=128, feature_info=levels)

        def separables(in_channels: int, channels: int, stride: int) -> nn.Sequential:
            first, second = separable(in_channels, channels, stride, norm), separable(channels, channels, 1, norm)
            return stage(first, second, drop_rate=stage_drop_rate, dropout=stage_dropout)

        self.stem = conv_norm_act(in_chans, 16, 3, norm=norm)
        self.stage1 = separables(16, 32, stride=1)
        self.stage2 = separables(32, 64, stride=2)
        self.stage3 = separables(64, 128, stride=2)
        self.head = ClassifierHead(128, num_classes, pool_type=global_pool, drop_rate=drop_rate)
        he_init(self)

    def forward_features(self, x: Tensor) -> Tensor:
        x = self.run(self.stem, x)  # (N, 16, H, W)
        x = self.run(self.stage1, x)  # (N, 32, H, W)
        x = self.run(self.stage2, x)  # (N, 64, H/2, W/2)
        return self.run(self.stage3, x)  # (N, 128, H/4, W/4)


default_cfgs = generate_default_cfgs(
    {"mobilenet_tiny": default_cfg((3, 32, 32), first_conv="stem.conv", min_size=(4, 4))}
)


@register_model
def mobilenet_tiny(pretrained: bool = False, **kwargs: Any) -> MobileNetTiny:
    """MobileNetTiny as timm builds it; the keywords are MobileNetTiny's and those of `timm.create_model`."""
    levels = {"out_indices": (0, 1, 2)}
    return build_model_with_cfg(MobileNetTiny, "mobilenet_tiny", pretrained, feature_cfg=levels, **kwargs)
