"""Building blocks that several networks share, and the choices that they offer."""

import math
from collections import OrderedDict
from typing import Literal, cast, get_args

from torch import Tensor, nn

from zoo.errors import SettingsError
from zoo.layers import BlurPool2d

Norm = Literal["batch", "group", "none"]
Pool = Literal["max", "avg", "blur"]
GlobalPool = Literal["avg", "max", "avgmax", ""]  # timm's names
Dropout = Literal["standard", "spatial"]

GROUPS = 8  # of GroupNorm, or the greatest divisor that the number of channels shares with 8


def norm2d(norm: Norm, channels: int) -> nn.Module:
    """Return the normalisation layer for (N, channels, H, W)."""
    check_choice("norm", norm, get_args(Norm))
    if norm == "none":
        return nn.Identity()
    return nn.BatchNorm2d(channels) if norm == "batch" else nn.GroupNorm(math.gcd(GROUPS, channels), channels)


def pool2d(pool: Pool, channels: int) -> nn.Module:
    """Return a pooling layer that halves height and width."""
    check_choice("pool", pool, get_args(Pool))
    if pool == "blur":
        return BlurPool2d(channels)
    return nn.MaxPool2d(2) if pool == "max" else nn.AvgPool2d(2)


def conv_norm_act(
    in_channels: int, out_channels: int, kernel_size: int, *, stride: int = 1, groups: int = 1, norm: Norm = "batch"
) -> nn.Sequential:
    """Return a convolution, normalisation and ReLU; padding keeps the size, and there is a bias only without a norm."""
    padding, bias = (kernel_size - 1) // 2, norm == "none"
    conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding, groups=groups, bias=bias)
    return nn.Sequential(OrderedDict(conv=conv, norm=norm2d(norm, out_channels), act=nn.ReLU()))


def he_init(network: nn.Module) -> None:
    """Initialise the convolutions as in He et al., https://arxiv.org/abs/1502.01852, eq. 10 with fan-out."""
    for module in network.modules():
        if isinstance(module, nn.Conv1d | nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.groups > 1:  # PyTorch's fan-out counts the filters of all groups
                module.weight.data.mul_(math.sqrt(module.groups))
            if module.bias is not None:
                nn.init.zeros_(module.bias)


class FlatHead(nn.Module):
    """Dropout and a linear classifier for features that are one vector, without a global pool."""

    def __init__(self, in_features: int, num_classes: int, drop_rate: float = 0.0) -> None:
        super().__init__()
        self.in_features = in_features
        self.drop = nn.Dropout(drop_rate)
        self.fc = _classifier(in_features, num_classes)

    def reset(self, num_classes: int, pool_type: str | None = None) -> None:
        """Replace the classifier by a newly initialised one.

        Raises:
            SettingsError: a global pool is requested.
        """
        if pool_type:
            raise SettingsError(f"a network whose features are one vector has no global pool; got '{pool_type}'")
        self.fc = _classifier(self.in_features, num_classes)

    def forward(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        x = self.drop(x)  # (N, in_features)
        return x if pre_logits else cast("Tensor", self.fc(x))  # (N, num_classes)


def _classifier(in_features: int, num_classes: int) -> nn.Module:
    return nn.Linear(in_features, num_classes) if num_classes else nn.Identity()


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Check that `value` is among the choices of the option `name`.

    Raises:
        SettingsError: it is not.
    """
    if value not in choices:
        raise SettingsError(f"{name} must be one of {', '.join(choices)}; got '{value}'")
