"""A small ConvNeXt: Liu et al., "A ConvNet for the 2020s", https://arxiv.org/abs/2201.03545.

A stem of patches, few norms and activations, 7x7 depthwise convolutions and inverted bottlenecks. It omits the paper's
layer scale and stochastic depth, which only deep networks need.
"""

from typing import ClassVar, Unpack

from timm.layers import LayerNorm2d
from torch import Tensor, nn

from zoo.networks.base import StagedNetwork, StagedOptions, feature_level, register


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


class ConvNext4(StagedNetwork):
    """2x2 patches, then four blocks of 32, 64, 64 and 128 channels in three stages.

    Input: (N, C, H, W), H and W multiples of 8. Output: logits (N, num_classes).
    """

    input_size, min_size, first_conv = (3, 32, 32), (8, 8), "stem.0"
    feature_levels = feature_level("stage1", 32, 2), feature_level("stage2", 64, 4), feature_level("stage3", 128, 8)
    layer_groups: ClassVar = {"stem": r"^stem\.", "blocks": r"^(?:stage|down)(\d)"}

    def __init__(self, **options: Unpack[StagedOptions]) -> None:
        super().__init__(**options)
        self.stem = nn.Sequential(nn.Conv2d(self.in_chans, 32, 2, stride=2), LayerNorm2d(32))
        self.stage1 = self.stage(Block(32))
        self.down2 = nn.Sequential(LayerNorm2d(32), nn.Conv2d(32, 64, 2, stride=2))
        self.stage2 = self.stage(Block(64), Block(64))
        self.down3 = nn.Sequential(LayerNorm2d(64), nn.Conv2d(64, 128, 2, stride=2))
        self.stage3 = self.stage(Block(128))
        self.norm = LayerNorm2d(128)
        self.add_head(128)
        self.apply(_init)

    def forward_features(self, x: Tensor) -> Tensor:
        x = self.run(self.stage1, self.stem(x))  # (N, 32, H/2, W/2)
        x = self.run(self.stage2, self.down2(x))  # (N, 64, H/4, W/4)
        x = self.run(self.stage3, self.down3(x))  # (N, 128, H/8, W/8)
        y: Tensor = self.norm(x)  # (N, 128, H/8, W/8)
        return y


def _init(module: nn.Module) -> None:
    """Initialise as the paper does: a normal distribution of standard deviation 0.02, truncated at 2; biases of 0."""
    if isinstance(module, nn.Conv2d | nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


convnext4 = register("convnext4", ConvNext4)
