"""Multiply-accumulates (MACs) of an operation and parameter counts of a layer, in closed form from sizes.

Biases, norms, activations and pools count no MACs, as in `torch.utils.flop_counter`, which counts two FLOPs per MAC.
"""

import math
from collections.abc import Callable
from typing import Any

from zoo.geometry.values import Value

BYTES_PER_NUMBER = 4  # float32


def convolution(result: Value, x: Value, weight: Value, *rest: Any) -> int:
    """Return positions * taps * Ci/G * Co for G groups.

    The positions are those of the output, or of the input for a transposed convolution.
    """
    transposed = rest[4]
    positions = x if transposed else result
    return positions.shape[0] * math.prod(positions.shape[2:]) * math.prod(weight.shape)


def matrix_product(result: Value, a: Value, _b: Value) -> int:
    """Return n * k * m for a product of (n, k) and (k, m)."""
    return math.prod(result.shape) * a.shape[-1]


def matrix_product_with_bias(result: Value, _bias: Value, a: Value, b: Value) -> int:
    return matrix_product(result, a, b)


MACS: dict[str, Callable[..., int]] = {
    "addmm": matrix_product_with_bias,
    "baddbmm": matrix_product_with_bias,
    "bmm": matrix_product,
    "convolution": convolution,
    "mm": matrix_product,
}


def fully_connected_weights(inputs: int, outputs: int) -> int:
    """Return the number of weights: one per input and output. Biases, if any, add `outputs` parameters."""
    return inputs * outputs


def convolution_weights(in_channels: int, out_channels: int, taps: int, groups: int = 1) -> int:
    """Return F*F*Ci/G*Co for G groups, with `taps` = F*F. Biases, if any, add Co parameters."""
    return taps * (in_channels // groups) * out_channels


def locally_connected_weights(in_channels: int, out_channels: int, taps: int, positions: int) -> int:
    """Return a convolution's weights times the number of output positions. Biases add one parameter per output."""
    return positions * convolution_weights(in_channels, out_channels, taps)
