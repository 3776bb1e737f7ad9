"""Convolution as defined in mathematics. Libraries compute cross-correlation, which does not flip the kernel.

On an axis of stride 1 without padding, with a kernel w of length K:

    cross-correlation   y(i) = sum_j x(i + j) w(j)
    convolution         y(i) = sum_j x(i + K - 1 - j) w(j)      (x * w where the kernel lies inside x)
"""

from typing import Any

from torch import Tensor, nn

CONV_ARGUMENTS = (
    "in_channels",
    "out_channels",
    "kernel_size",
    "stride",
    "padding",
    "dilation",
    "groups",
    "padding_mode",
)


class TrueConv1d(nn.Conv1d):
    """nn.Conv1d with its kernel flipped: `weight` is the kernel of the convolution."""

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self._conv_forward(x, self.weight.flip(2), self.bias)
        return y

    def fuse(self) -> nn.Module:
        """Return the equivalent nn.Conv1d; timm's `reparameterize_model` replaces this layer by it."""
        return _with_weight(nn.Conv1d(**_arguments(self)), self, self.weight.flip(2))


class TrueConv2d(nn.Conv2d):
    """nn.Conv2d with its kernel flipped on both axes: `weight` is the kernel of the convolution."""

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self._conv_forward(x, self.weight.flip(2, 3), self.bias)
        return y

    def fuse(self) -> nn.Module:
        """Return the equivalent nn.Conv2d; timm's `reparameterize_model` replaces this layer by it."""
        return _with_weight(nn.Conv2d(**_arguments(self)), self, self.weight.flip(2, 3))


def _arguments(layer: nn.Module) -> dict[str, Any]:
    return {name: getattr(layer, name) for name in CONV_ARGUMENTS} | {"bias": layer.bias is not None}


def _with_weight(conv: nn.Module, layer: nn.Module, weight: Tensor) -> nn.Module:
    """Copy the state of `layer` into `conv`, but with another weight."""
    conv.load_state_dict(layer.state_dict() | {"weight": weight})
    return conv.to(weight).train(layer.training)
