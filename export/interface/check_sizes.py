"""Chooses a second input size at which to check a model with dynamic height and width."""

import torch
from torch import nn

from export.errors import UnsupportedNetworkError, dynamic_size_errors
from export.tracing.run import fresh_copy, run

Size = tuple[int, int, int]  # channels, height, width

BATCH = 2
# Added to height and width. The first two are different primes, which no stride divides; the others are multiples of 2,
# 4, 8, 16, 32 and 64, which some networks require.
INCREMENTS = ((37, 53), (38, 54), (36, 52), (40, 56), (48, 80), (32, 96), (64, 128))


def second_size(network: nn.Module, size: Size) -> tuple[int, int]:
    """Return the first larger height and width that the network accepts.

    If it accepts none, return the first candidate; a later step then rejects the network at that size.
    """
    larger = [(size[1] + height, size[2] + width) for height, width in INCREMENTS]
    return next((candidate for candidate in larger if _accepts(network, (size[0], *candidate))), larger[0])


def require_larger_size(network: nn.Module, size: Size) -> None:
    """Reject a network that fails on inputs larger than `size` by an odd height and width.

    Raises: UnsupportedNetworkError, which names the layer that fails.
    """
    height, width = INCREMENTS[0]
    with dynamic_size_errors():
        _run_at(network, (size[0], size[1] + height, size[2] + width))


def _accepts(network: nn.Module, size: Size) -> bool:
    try:
        _run_at(network, size)
    except UnsupportedNetworkError:
        return False
    return True


def _run_at(network: nn.Module, size: Size) -> None:
    run(fresh_copy(network), torch.zeros(BATCH, *size))
