"""A small ConvNeXt: Liu et al., "A ConvNet for the 2020s", https://arxiv.org/abs/2201.03545.

Patches instead of a stem, few norms and activations, wide depthwise windows, an inverted bottleneck. Without the
paper's layer scale and stochastic depth, which only deep networks need.
"""

from typing import Any, ClassVar

from timm.layers import ClassifierHead, LayerNorm2d
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn

from zoo.networks.base import Net, default_cfg, level
from zoo.networks.blocks import Dropout, GlobalPool, stage


class Block(nn.Module):
    """x + f(x): a 7x7 depthwise convolution, LayerNorm, then 1x1 convolutions to four times the width and back."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
        self.norm = LayerNorm2d(channels)
        self.pwconv1 = nn.Conv2d(channels, 4 * channels, 1)
        self.act = nn.GELU()
        self.pwconv2 = nn.Conv2d(4 * channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.dwconv(x))  # (N, channels, H, W)
        y = self.act(self.pwconv1(y))  # (N, 4 channels, H, W)
        z: Tensor = x + self.pwconv2(y)  # (N, channels, H, W)
        return z


class ConvNext4(Net):
    """2x2 patches, then four blocks of 32, 64, 64 and 128 channels in three stages.

    Takes (N, C, H, W) with H and W multiples of 8 and gives (N, num_classes) logits.
    """

    layer_groups: ClassVar = {"stem": r"^stem\.", "blocks": r"^(?:stage|down)(\d)"}

    def __init__(
        self,
        num_classes: int = 10,
        in_chans: int = 3,
        global_pool: GlobalPool = "avg",
        drop_rate: float = 0.0,
        stage_drop_rate: float = 0.0,
        stage_dropout: Dropout = "spatial",
    ) -> None:
        levels = (level("stage1", 32, 2), level("stage2", 64, 4), level("stage3", 128, 8))
        super().__init__(num_classes=num_classes, in_chans=in_chans, num_features=128, feature_info=levels)

        def blocks(channels: int, count: int) -> nn.Sequential:
            every = [Block(channels) for _ in range(count)]
            return stage(*every, drop_rate=stage_drop_rate, dropout=stage_dropout)

        self.stem = nn.Sequential(nn.Conv2d(in_chans, 32, 2, stride=2), LayerNorm2d(32))
        self.stage1 = blocks(32, count=1)
        self.down2 = nn.Sequential(LayerNorm2d(32), nn.Conv2d(32, 64, 2, stride=2))
        self.stage2 = blocks(64, count=2)
        self.down3 = nn.Sequential(LayerNorm2d(64), nn.Conv2d(64, 128, 2, stride=2))
        self.stage3 = blocks(128, count=1)
        self.norm = LayerNorm2d(128)
        self.head = ClassifierHead(128, num_classes, pool_type=global_pool, drop_rate=drop_rate)
        self.apply(_init)

    def forward_features(self, x: Tensor) -> Tensor:
        x = self.run(self.stage1, self.stem(x))  # (N, 32, H/2, W/2)
        x = self.run(self.stage2, self.down2(x))  # (N, 64, H/4, W/4)
        x = self.run(self.stage3, self.down3(x))  # (N, 128, H/8, W/8)
        y: Tensor = self.norm(x)  # (N, 128, H/8, W/8)
        return y


def _init(module: nn.Module) -> None:
    """The paper's: a normal distribution of deviation 0.02, cut off at 2, and no bias."""
    if isinstance(module, nn.Conv2d | nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


default_cfgs = generate_default_cfgs({"convnext4": default_cfg((3, 32, 32), first_conv="stem.0", min_size=(8, 8))})


@register_model
def convnext4(pretrained: bool = False, **kwargs: Any) -> ConvNext4:
    """ConvNext4 as timm builds it; the keywords are ConvNext4's and those of `timm.create_model`."""
    return build_model_with_cfg(ConvNext4, "convnext4", pretrained, feature_cfg={"out_indices": (0, 1, 2)}, **kwargs)
