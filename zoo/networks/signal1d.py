"""A 1-D CNN for signals. A signal of length L is an image of height 1, (N, C, 1, L), as every tool here expects."""

from collections import OrderedDict
from typing import Any, ClassVar, Literal

from timm.layers import ClassifierHead
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn

from zoo.errors import SettingsError
from zoo.networks.base import Net, default_cfg, level
from zoo.networks.blocks import GlobalPool, check_choice, he_init


class ImageToSignal(nn.Module):
    """(N, C, 1, L) to (N, C, L). Raises: SettingsError: the height is not 1."""

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[2] != 1:
            raise SettingsError(f"signal1d takes signals as images of height 1, (N, C, 1, L); got {tuple(x.shape)}")
        return x.squeeze(2)


class SignalToImage(nn.Module):
    """(N, C, L) to (N, C, 1, L)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.unsqueeze(2)


class Signal1d(Net):
    """Three 1-D convolutions of 9 taps, a pool after the first two, then global average pool and a linear classifier.

    Takes (N, C, 1, L) with L a multiple of 16 and gives (N, num_classes) logits.
    """

    layer_groups: ClassVar = {"stem": r"^stage1\.", "blocks": r"^stage(\d)\."}

    def __init__(
        self,
        num_classes: int = 6,
        in_chans: int = 1,
        global_pool: GlobalPool = "avg",
        pool: Literal["max", "avg"] = "max",
        norm: Literal["batch", "none"] = "batch",
        drop_rate: float = 0.0,
    ) -> None:
        levels = (level("stage1", 16, 1), level("stage2", 32, 4), level("stage3", 64, 16))
        super().__init__(num_classes=num_classes, in_chans=in_chans, num_features=64, feature_info=levels)
        self.signal = ImageToSignal()
        self.stage1 = _conv_norm_act(in_chans, 16, norm)
        self.pool1 = _pool(pool)
        self.stage2 = _conv_norm_act(16, 32, norm)
        self.pool2 = _pool(pool)
        self.stage3 = _conv_norm_act(32, 64, norm)
        self.image = SignalToImage()
        self.head = ClassifierHead(64, num_classes, pool_type=global_pool, drop_rate=drop_rate)
        he_init(self)

    def forward_features(self, x: Tensor) -> Tensor:
        x = self.signal(x)  # (N, C, L)
        x = self.pool1(self.run(self.stage1, x))  # (N, 16, L/4)
        x = self.pool2(self.run(self.stage2, x))  # (N, 32, L/16)
        x = self.run(self.stage3, x)  # (N, 64, L/16)
        y: Tensor = self.image(x)  # (N, 64, 1, L/16)
        return y


def _conv_norm_act(in_channels: int, out_channels: int, norm: str) -> nn.Sequential:
    check_choice("norm", norm, ("batch", "none"))
    conv = nn.Conv1d(in_channels, out_channels, 9, padding=4, bias=norm == "none")
    after: nn.Module = nn.BatchNorm1d(out_channels) if norm == "batch" else nn.Identity()
    return nn.Sequential(OrderedDict(conv=conv, norm=after, act=nn.ReLU()))


def _pool(pool: str) -> nn.Module:
    check_choice("pool", pool, ("max", "avg"))
    return nn.MaxPool1d(4) if pool == "max" else nn.AvgPool1d(4)


default_cfgs = generate_default_cfgs(
    {"signal1d": default_cfg((1, 1, 128), first_conv="stage1.conv", min_size=(1, 16), num_classes=6)}
)


@register_model
def signal1d(pretrained: bool = False, **kwargs: Any) -> Signal1d:
    """Signal1d as timm builds it; the keywords are Signal1d's and those of `timm.create_model`."""
    return build_model_with_cfg(Signal1d, "signal1d", pretrained, feature_cfg={"out_indices": (0, 1, 2)}, **kwargs)
