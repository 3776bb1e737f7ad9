"""Chooses a second input size at which to check a model with dynamic height and width."""

from typing import Protocol, Self

from torch import nn

from export.errors import UnsupportedNetworkError
from export.tracing.arguments import Arguments
from export.tracing.run import fresh_copy, run

BATCH = 2
# Added to height and width. The first two are different primes, which no stride divides; the others are multiples of 2,
# 4, 8, 16, 32 and 64, which some networks require.
INCREMENTS = ((37, 53), (38, 54), (36, 52), (40, 56), (48, 80), (32, 96), (64, 128))


class Resizable(Protocol):
    """An interface of a network with one image as its input."""

    @property
    def sizes(self) -> tuple[tuple[int, ...], ...]:
        """Heights and widths, the network's own first."""

    def at(self, *size: int) -> Self:
        """Return this interface for another height and width."""

    def example(self, batch: int) -> Arguments:
        """Return arguments of the network."""


def larger_sizes(network: nn.Module, interface: Resizable) -> tuple[tuple[int, int]]:
    """Return the first larger height and width that the network accepts.

    If it accepts none, return the first candidate; a later step then rejects the network at that size.
    """
    own_height, own_width = interface.sizes[0]
    larger = [(own_height + height, own_width + width) for height, width in INCREMENTS]
    return (next((size for size in larger if _accepts(network, interface.at(*size))), larger[0]),)


def _accepts(network: nn.Module, interface: Resizable) -> bool:
    try:
        run(fresh_copy(network), interface.example(BATCH))
    except UnsupportedNetworkError:
        return False
    return True
