"""Locally connected layers: windows as in a convolution, but each position has its own weights.

The elements under each window are gathered by an index, then multiplied by that position's weight matrix. The index is
computed at construction, which therefore requires the input's size; the batch size stays dynamic, in ONNX too.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.errors import SettingsError
from zoo.layers.padding import count_windows

Size = tuple[int, ...]


class _LocallyConnected(nn.Module):
    """`weight` has shape (positions, in_channels * window, out_channels), `bias` (out_channels, *output_size)."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        input_size: Size,
        stride: Size,
        padding: Size,
        dilation: Size,
        bias: bool,
    ) -> None:
        super().__init__()
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, 1
        self.kernel_size, self.stride, self.padding, self.dilation = kernel_size, stride, padding, dilation
        self.input_size = input_size
        self.output_size = tuple(map(count_windows, input_size, kernel_size, stride, padding, dilation))
        self.taps: Tensor
        self.register_buffer("taps", self._taps(), persistent=False)  # (positions, window)
        positions, window = self.taps.shape
        self.weight = nn.Parameter(torch.empty(positions, in_channels * window, out_channels))
        self.bias = nn.Parameter(torch.empty(out_channels, *self.output_size)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw uniformly from +-1 / sqrt(fan_in), as PyTorch does for its convolutions."""
        bound = 1 / math.sqrt(self.weight.shape[1])
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        if tuple(x.shape[1:]) != (self.in_channels, *self.input_size):
            raise SettingsError(
                f"this {type(self).__name__} was built for inputs of shape {self.in_channels, *self.input_size} "
                f"without the batch axis; got {tuple(x.shape[1:])}"
            )
        padding = [pad for pad in reversed(self.padding) for _ in range(2)]
        windows = F.pad(x, padding).flatten(2)[:, :, self.taps]  # (N, C, positions, window)
        rows = windows.permute(2, 0, 1, 3).flatten(2)  # (positions, N, C * window)
        products = torch.matmul(rows, self.weight).permute(1, 2, 0)  # (N, out, positions)
        y: Tensor = products.unflatten(2, self.output_size)  # type: ignore[no-untyped-call]  # (N, out, *output_size)
        return y if self.bias is None else y + self.bias

    def extra_repr(self) -> str:
        return (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, input_size={self.input_size}, "
            f"stride={self.stride}, padding={self.padding}, dilation={self.dilation}, bias={self.bias is not None}"
        )

    def _taps(self) -> Tensor:
        """Return the indices of each window's elements in the flattened, padded input."""
        padded = [length + 2 * pad for length, pad in zip(self.input_size, self.padding, strict=True)]
        index = np.arange(math.prod(padded)).reshape(padded)
        extent = [d * (k - 1) + 1 for k, d in zip(self.kernel_size, self.dilation, strict=True)]
        windows = np.lib.stride_tricks.sliding_window_view(index, extent)
        steps = tuple(slice(None, None, step) for step in (*self.stride, *self.dilation))
        taps = windows[steps].reshape(math.prod(self.output_size), math.prod(self.kernel_size))
        return torch.from_numpy(taps.copy())


class LocallyConnected1d(_LocallyConnected):
    """A locally connected layer for (N, in_channels, input_size).

    Raises:
        SettingsError: the window does not fit the input; see `count_windows`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        input_size: int,
        stride: int = 1,
        padding: int = 0,
        dilation: int = 1,
        bias: bool = True,
    ) -> None:
        super().__init__(
            in_channels, out_channels, (kernel_size,), (input_size,), (stride,), (padding,), (dilation,), bias
        )


class LocallyConnected2d(_LocallyConnected):
    """A locally connected layer for (N, in_channels, *input_size).

    Raises:
        SettingsError: the window does not fit the input; see `count_windows`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        *,
        input_size: tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] = 0,
        dilation: int | tuple[int, int] = 1,
        bias: bool = True,
    ) -> None:
        kernel, strides, pads, dilations = map(_pair, (kernel_size, stride, padding, dilation))
        super().__init__(in_channels, out_channels, kernel, tuple(input_size), strides, pads, dilations, bias)


def _pair(value: int | tuple[int, int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else value
