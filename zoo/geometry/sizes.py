"""Output size of a sliding window along one axis, and the input rows that it does not cover at the end.

A window of F taps with dilation D moves with stride S over N rows, with P rows of padding at either end. Libraries
round the number of positions down, so the last r = (N + 2P - D(F-1) - 1) mod S rows are not covered:

    r = 0         the stride is exact
    0 < r <= P    only padding is not covered
    r > P         the last r - P rows of the input itself are dropped
"""

from dataclasses import dataclass
from functools import cached_property


@dataclass(frozen=True)
class Window:
    """A convolution's or pool's window along one axis.

    Attributes:
        rows: N, the size of the input along this axis.
        taps: F, the kernel size.
        stride: S.
        padding: P, rows of padding before and after the input.
        dilation: D.
        ceil_mode: round the number of positions up instead of down.
        margin: how many of the last of the N rows an earlier layer added as padding; dropping those loses nothing.
    """

    rows: int
    taps: int
    stride: int = 1
    padding: int = 0
    dilation: int = 1
    ceil_mode: bool = False
    margin: int = 0

    @property
    def extent(self) -> int:
        """Rows from the first tap to the last, both included: D(F-1) + 1."""
        return self.dilation * (self.taps - 1) + 1

    @property
    def fits(self) -> bool:
        """Whether the window has at least one position."""
        return self.rows + 2 * self.padding >= self.extent

    @cached_property
    def size(self) -> int:
        """The number of positions: (N + 2P - D(F-1) - 1) / S + 1, rounded down, or up in ceil mode.

        In ceil mode, a last position that would start in the padding after the input does not count.
        """
        steps = self.rows + 2 * self.padding - self.extent
        if not self.ceil_mode:
            return steps // self.stride + 1
        size = -(-steps // self.stride) + 1
        return size - 1 if (size - 1) * self.stride >= self.rows + self.padding else size

    @property
    def unused(self) -> int:
        """How many of the N + 2P rows lie after the last position: r, or 0 where ceil mode reaches past the end."""
        return max(0, self.rows + 2 * self.padding - (self.size - 1) * self.stride - self.extent)

    @property
    def missing(self) -> int:
        """How many rows after the N + 2P rows the last position reaches, in ceil mode."""
        return max(0, (self.size - 1) * self.stride + self.extent - self.rows - 2 * self.padding)

    @property
    def lost(self) -> int:
        """How many of the unused rows are the input's own, not padding: r - P - margin, at least 0."""
        return min(self.rows, max(0, self.unused - self.padding - self.margin))


def transposed_size(rows: int, taps: int, stride: int, padding: int, dilation: int, output_padding: int) -> int:
    """Return a transposed convolution's output size: (N-1)S - 2P + D(F-1) + 1 + output padding."""
    return (rows - 1) * stride - 2 * padding + dilation * (taps - 1) + 1 + output_padding
