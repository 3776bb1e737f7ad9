"""How many positions a sliding window has, and what it leaves out at the end.

Along one axis a window of F taps, D apart, moves in strides of S over N rows with P rows of padding on either side.
With floor, as libraries do it, r = (N + 2P - D(F-1) - 1) mod S rows at the end are never looked at. r = 0 is exact;
r <= P leaves out nothing but padding; r > P leaves out r - P rows of the input itself.
"""

from dataclasses import dataclass
from functools import cached_property


@dataclass(frozen=True)
class Window:
    """One axis of a convolution or pool: N rows, F taps, stride S, P rows of padding before and after, dilation D.

    `margin` counts the last rows of the N that an earlier layer added as padding; they are no loss either.
    """

    rows: int
    taps: int
    stride: int = 1
    padding: int = 0
    dilation: int = 1
    ceil_mode: bool = False
    margin: int = 0

    @property
    def reach(self) -> int:
        """Rows from the first tap to the last, both counted: D(F-1) + 1."""
        return self.dilation * (self.taps - 1) + 1

    @property
    def fits(self) -> bool:
        """Whether the window has a place at all."""
        return self.rows + 2 * self.padding >= self.reach

    @cached_property
    def size(self) -> int:
        """The number of positions: (N + 2P - D(F-1) - 1) / S + 1, rounded down, or up in ceil mode.

        Rounded up, the last position is given back when it would begin in the padding after the input.
        """
        steps = self.rows + 2 * self.padding - self.reach
        if not self.ceil_mode:
            return steps // self.stride + 1
        size = -(-steps // self.stride) + 1
        return size - 1 if (size - 1) * self.stride >= self.rows + self.padding else size

    @property
    def unused(self) -> int:
        """How many of the N + 2P rows lie behind the last position: r, or 0 where ceil mode reaches over the end."""
        return max(0, self.rows + 2 * self.padding - (self.size - 1) * self.stride - self.reach)

    @property
    def lost(self) -> int:
        """How many rows of the input itself are among the unused: r - P, at least 0."""
        return min(self.rows, max(0, self.unused - self.padding - self.margin))


def transposed_size(rows: int, taps: int, stride: int, padding: int, dilation: int, output_padding: int) -> int:
    """The size that a transposed convolution gives: (N-1)S - 2P + D(F-1) + 1 + output padding."""
    return (rows - 1) * stride - 2 * padding + dilation * (taps - 1) + 1 + output_padding
