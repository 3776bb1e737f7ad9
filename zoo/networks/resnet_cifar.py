"""Residual networks for 32x32 images: He et al., "Deep Residual Learning", https://arxiv.org/abs/1512.03385, section 4.2.

6n + 2 layers: a 3x3 convolution, three stages of n blocks of two, a classifier. Where a block changes the shape, its
shortcut is the paper's option B, a 1x1 convolution; instead of taking every second pixel and never looking at the
others, it averages them first, as ResNet-D does: He et al., https://arxiv.org/abs/1812.01187.
"""

from typing import Any, ClassVar

from timm.layers import ClassifierHead
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn

from zoo.networks.base import Net, default_cfg, level
from zoo.networks.blocks import Dropout, GlobalPool, Norm, conv_norm_act, he_init, norm2d, stage


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


class CifarResNet(Net):
    """Three stages of `blocks` residual blocks of 16, 32 and 64 channels.

    Takes (N, C, H, W) with H and W multiples of 4 and gives (N, num_classes) logits.
    """

    layer_groups: ClassVar = {"stem": r"^stem\.", "blocks": r"^layer(\d)\.(\d+)"}

    def __init__(
        self,
        blocks: int,
        num_classes: int = 10,
        in_chans: int = 3,
        global_pool: GlobalPool = "avg",
        norm: Norm = "batch",
        drop_rate: float = 0.0,
        stage_drop_rate: float = 0.0,
        stage_dropout: Dropout = "spatial",
    ) -> None:
        levels = (level("layer1", 16, 1), level("layer2", 32, 2), level("layer3", 64, 4))
        super().__init__(num_classes=num_classes, in_chans=in_chans, num_features=64, feature_info=levels)

        def layer(in_channels: int, channels: int, stride: int) -> nn.Sequential:
            first = BasicBlock(in_channels, channels, stride, norm)
            others = [BasicBlock(channels, channels, 1, norm) for _ in range(blocks - 1)]
            return stage(first, *others, drop_rate=stage_drop_rate, dropout=stage_dropout)

        self.stem = conv_norm_act(in_chans, 16, 3, norm=norm)
        self.layer1 = layer(16, 16, stride=1)
        self.layer2 = layer(16, 32, stride=2)
        self.layer3 = layer(32, 64, stride=2)
        self.head = ClassifierHead(64, num_classes, pool_type=global_pool, drop_rate=drop_rate)
        he_init(self)

    def forward_features(self, x: Tensor) -> Tensor:
        x = self.run(self.stem, x)  # (N, 16, H, W)
        x = self.run(self.layer1, x)  # (N, 16, H, W)
        x = self.run(self.layer2, x)  # (N, 32, H/2, W/2)
        return self.run(self.layer3, x)  # (N, 64, H/4, W/4)


def _build(variant: str, blocks: int, pretrained: bool, **kwargs: Any) -> CifarResNet:
    levels = {"out_indices": (0, 1, 2)}
    return build_model_with_cfg(CifarResNet, variant, pretrained, feature_cfg=levels, blocks=blocks, **kwargs)


default_cfgs = generate_default_cfgs(
    {
        name: default_cfg((3, 32, 32), first_conv="stem.conv", min_size=(4, 4))
        for name in ("resnet8", "resnet20", "resnet56")
    }
)


@register_model
def resnet8(pretrained: bool = False, **kwargs: Any) -> CifarResNet:
    """One block a stage; the keywords are CifarResNet's and those of `timm.create_model`."""
    return _build("resnet8", 1, pretrained, **kwargs)


@register_model
def resnet20(pretrained: bool = False, **kwargs: Any) -> CifarResNet:
    """Three blocks a stage; the keywords are CifarResNet's and those of `timm.create_model`."""
    return _build("resnet20", 3, pretrained, **kwargs)


@register_model
def resnet56(pretrained: bool = False, **kwargs: Any) -> CifarResNet:
    """Nine blocks a stage; the keywords are CifarResNet's and those of `timm.create_model`."""
    return _build("resnet56", 9, pretrained, **kwargs)
