"""Convolution as mathematics has it. What libraries call convolution is cross-correlation: they do not flip the kernel.

On an axis of stride 1 without padding, with a kernel w of length K:

    cross-correlation   y(i) = sum_j x(i + j) w(j)
    convolution         y(i) = sum_j x(i + K - 1 - j) w(j)      (x * w where the two overlap wholly)
"""

from typing import Any

from torch import Tensor, nn

OPTIONS = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups", "padding_mode")


class TrueConv1d(nn.Conv1d):
    """nn.Conv1d with its kernel flipped: `weight` is the kernel of the convolution."""

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self._conv_forward(x, self.weight.flip(2), self.bias)
        return y

    def fuse(self) -> nn.Module:
        """The plain layer of the same function: timm's `reparameterize_model` puts it in this one's place."""
        return _filled(nn.Conv1d(**_options(self)), self, self.weight.flip(2))


class TrueConv2d(nn.Conv2d):
    """nn.Conv2d with its kernel flipped on both axes: `weight` is the kernel of the convolution."""

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self._conv_forward(x, self.weight.flip(2, 3), self.bias)
        return y

    def fuse(self) -> nn.Module:
        """The plain layer of the same function: timm's `reparameterize_model` puts it in this one's place."""
        return _filled(nn.Conv2d(**_options(self)), self, self.weight.flip(2, 3))


def _options(layer: nn.Module) -> dict[str, Any]:
    return {name: getattr(layer, name) for name in OPTIONS} | {"bias": layer.bias is not None}


def _filled(plain: nn.Module, layer: nn.Module, weight: Tensor) -> nn.Module:
    plain.load_state_dict(layer.state_dict() | {"weight": weight})
    return plain.to(weight).train(layer.training)
