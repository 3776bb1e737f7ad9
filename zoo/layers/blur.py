"""Blurring before subsampling, which makes the output less sensitive to small shifts of the input.

Source: Zhang, "Making Convolutional Networks Shift-Invariant Again", https://arxiv.org/abs/1904.11486.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.errors import SettingsError


class BlurPool2d(nn.Module):
    """Smooth each channel with binomial coefficients and keep every `stride`-th value; there are no parameters.

    Padding reflects the input, so its height and width must be greater than (kernel_size - 1) / 2.

    Raises:
        SettingsError: `kernel_size` is not odd, or `stride` is less than 1.
    """

    def __init__(self, channels: int, kernel_size: int = 3, stride: int = 2) -> None:
        super().__init__()
        if kernel_size < 1 or kernel_size % 2 == 0 or stride < 1:
            raise SettingsError(
                f"BlurPool2d requires an odd kernel_size and a stride of 1 or more; got {kernel_size} and {stride}"
            )
        self.in_channels = self.out_channels = self.groups = channels
        self.kernel_size, self.stride, self.dilation = (kernel_size, kernel_size), (stride, stride), (1, 1)
        self.padding = ((kernel_size - 1) // 2, (kernel_size - 1) // 2)
        row = torch.tensor([math.comb(kernel_size - 1, j) for j in range(kernel_size)]) / 2 ** (kernel_size - 1)
        self.kernel: Tensor
        self.register_buffer("kernel", torch.outer(row, row).repeat(channels, 1, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        rows, columns = self.padding
        padded = F.pad(x, (columns, columns, rows, rows), mode="reflect")
        return F.conv2d(padded, self.kernel, stride=self.stride, groups=self.groups)

    def extra_repr(self) -> str:
        return f"{self.in_channels}, kernel_size={self.kernel_size}, stride={self.stride}"
