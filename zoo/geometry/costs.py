"""What an operation costs: multiply-accumulates, by closed form from sizes.

A bias costs none, and neither do norms, activations and pools, as in `torch.utils.flop_counter` (two FLOPs each).
"""

import math
from collections.abc import Callable
from typing import Any

from zoo.geometry.values import Value

BYTES_PER_NUMBER = 4  # float32


def convolution(result: Value, x: Value, weight: Value, *rest: Any) -> int:
    """Each place takes a whole filter for each pair of channels in a group: places * F * F * Ci/G * Co.

    A transposed convolution has its places in the input.
    """
    transposed = rest[4]
    places = x if transposed else result
    return places.shape[0] * math.prod(places.shape[2:]) * math.prod(weight.shape)


def product(result: Value, a: Value, _b: Value) -> int:
    """(n, k) by (k, m): n * k * m."""
    return math.prod(result.shape) * a.shape[-1]


def added_product(result: Value, _bias: Value, a: Value, b: Value) -> int:
    return product(result, a, b)


MACS: dict[str, Callable[..., int]] = {
    "addmm": added_product,
    "baddbmm": added_product,
    "bmm": product,
    "convolution": convolution,
    "mm": product,
}


def fully_connected_weights(inputs: int, outputs: int) -> int:
    """Every output has a weight for every input; with a bias each, `outputs` parameters more."""
    return inputs * outputs


def convolution_weights(in_channels: int, out_channels: int, taps: int, groups: int = 1) -> int:
    """F*F*Di*K, of which a group takes its share; with a bias each, K parameters more."""
    return taps * (in_channels // groups) * out_channels


def locally_connected_weights(in_channels: int, out_channels: int, taps: int, places: int) -> int:
    """As a convolution's, but anew at every place; with biases, one for each number of the output."""
    return places * convolution_weights(in_channels, out_channels, taps)
