"""A 1-D CNN for signals. A signal of length L is an image of height 1, (N, C, 1, L), as in all of zoonnx."""

from collections import OrderedDict
from typing import ClassVar, Literal, Unpack

from torch import Tensor, nn

from zoo.errors import SettingsError
from zoo.networks.base import PooledNetwork, PooledOptions, feature_level, register
from zoo.networks.blocks import check_choice, he_init


class ImageToSignal(nn.Module):
    """(N, C, 1, L) to (N, C, L).

    Raises:
        SettingsError: the height is not 1.
    """

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[2] != 1:
            raise SettingsError(f"signal1d expects signals as images of height 1, (N, C, 1, L); got {tuple(x.shape)}")
        return x.squeeze(2)


class SignalToImage(nn.Module):
    """(N, C, L) to (N, C, 1, L)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.unsqueeze(2)


class Signal1d(PooledNetwork):
    """Three 1-D convolutions of 9 taps with pools between them, then a global average pool and a linear classifier.

    Input: (N, C, 1, L), L a multiple of 16. Output: logits (N, num_classes).
    """

    input_size, min_size, default_classes, first_conv = (1, 1, 128), (1, 16), 6, "stage1.conv"
    feature_levels = feature_level("stage1", 16, 1), feature_level("stage2", 32, 4), feature_level("stage3", 64, 16)
    layer_groups: ClassVar = {"stem": r"^stage1\.", "blocks": r"^stage(\d)\."}

    def __init__(
        self,
        *,
        pool: Literal["max", "avg"] = "max",
        norm: Literal["batch", "none"] = "batch",
        **options: Unpack[PooledOptions],
    ) -> None:
        super().__init__(**options)
        self.to_signal = ImageToSignal()
        self.stage1 = _conv_norm_act(self.in_chans, 16, norm)
        self.pool1 = _pool(pool)
        self.stage2 = _conv_norm_act(16, 32, norm)
        self.pool2 = _pool(pool)
        self.stage3 = _conv_norm_act(32, 64, norm)
        self.to_image = SignalToImage()
        self.add_head(64)
        he_init(self)

    def forward_features(self, x: Tensor) -> Tensor:
        x = self.to_signal(x)  # (N, C, L)
        x = self.pool1(self.run(self.stage1, x))  # (N, 16, L/4)
        x = self.pool2(self.run(self.stage2, x))  # (N, 32, L/16)
        x = self.run(self.stage3, x)  # (N, 64, L/16)
        y: Tensor = self.to_image(x)  # (N, 64, 1, L/16)
        return y


def _conv_norm_act(in_channels: int, out_channels: int, norm: str) -> nn.Sequential:
    check_choice("norm", norm, ("batch", "none"))
    conv = nn.Conv1d(in_channels, out_channels, 9, padding=4, bias=norm == "none")
    norm1d: nn.Module = nn.BatchNorm1d(out_channels) if norm == "batch" else nn.Identity()
    return nn.Sequential(OrderedDict(conv=conv, norm=norm1d, act=nn.ReLU()))


def _pool(pool: str) -> nn.Module:
    check_choice("pool", pool, ("max", "avg"))
    return nn.MaxPool1d(4) if pool == "max" else nn.AvgPool1d(4)


signal1d = register("signal1d", Signal1d)
