"""What is known of a tensor without computing it: its sizes, and which part of the image each of its units sees.

A tensor's dimension is a product of factors, outermost first: 196 tokens that came of a 14x14 map are 14 x 14. Moving
by one along a factor moves what a unit sees by that factor's `steps`, one number for each axis of the image: (16, 0)
along the map's rows, (0, 16) along its columns, (0, 0) along channels. So a unit sees, on each axis of the image, the
pixels from `start + sum(step * index)` on, `size` of them, as far as they lie between `low` and `high`. That stays true
under convolution, pooling, reshaping, permuting and windowed attention alike, and is what makes closed form possible.

A step of None means: it varies along this factor, inside the span, in a way that is not a straight line (after a
concatenation of tokens, a roll, a gather). The span is then an upper bound.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

Number = int | Fraction
Step = Number | None


@dataclass(frozen=True)
class Factor:
    """A factor of a dimension: its size, and the step on each axis of the image."""

    size: int
    steps: tuple[Step, ...]

    @property
    def moves(self) -> bool:
        """Whether anything a unit sees depends on the index along this factor."""
        return any(step != 0 for step in self.steps)

    def split(self, outer: int) -> tuple["Factor", "Factor"]:
        """The same factor as two, of which the first has the size `outer`."""
        inner = self.size // outer
        return Factor(outer, tuple(None if s is None else s * inner for s in self.steps)), Factor(inner, self.steps)

    def continues(self, inner: "Factor") -> bool:
        """Whether `self` followed by `inner` is one straight run."""
        return all(
            outer is not None and step is not None and outer == step * inner.size
            for outer, step in zip(self.steps, inner.steps, strict=True)
        )


Dim = tuple[Factor, ...]


@dataclass(frozen=True)
class Span:
    """What the unit of index 0 sees of one axis of the image, and the first and last pixel that any unit sees.

    `bound` says that `start` and `size` are rounded outwards, as between pixels of an interpolation.
    """

    start: Number
    size: Number
    low: Number
    high: Number
    bound: bool = False

    @property
    def end(self) -> Number:
        return self.start + self.size - 1

    def covers(self, other: "Span", moves: bool) -> bool:
        """Whether nothing that `other` sees lies outside; where both move along, the image's edge is no excuse."""
        if moves:
            return self.start <= other.start and self.end >= other.end
        low, high = max(self.start, self.low), min(self.end, self.high)
        return low <= max(other.start, other.low) and high >= min(other.end, other.high)

    def swept(self, step: Step, count: int) -> "Span":
        """The smallest span around all that `count` units see, `step` apart."""
        if not step or count == 1:
            return self
        reach = step * (count - 1)
        return replace(self, start=self.start + min(0, reach), size=self.size + max(reach, -reach))

    def joined(self, other: "Span") -> "Span":
        """The smallest span around both."""
        start = min(self.start, other.start)
        size = max(self.end, other.end) - start + 1
        return Span(start, size, min(self.low, other.low), max(self.high, other.high), self.bound or other.bound)


@dataclass(frozen=True)
class Value:
    """A tensor: its dimensions, and its spans, one for each axis of the image; none for a tensor free of the image.

    `margins` counts, for each dimension, the last rows that are padding; only a pad leaves any.
    """

    dims: tuple[Dim, ...]
    spans: tuple[Span, ...] = ()
    margins: tuple[int, ...] = ()

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(size_of(dim) for dim in self.dims)

    @property
    def rank(self) -> int:
        return len(self.dims)

    @property
    def axes(self) -> int:
        return len(self.spans)

    def with_dims(self, dims: Iterable[Dim]) -> "Value":
        return Value(tuple(dims), self.spans)

    def with_dim(self, index: int, dim: Dim) -> "Value":
        index %= self.rank
        return self.with_dims((*self.dims[:index], dim, *self.dims[index + 1 :]))

    def swept(self, indices: Iterable[int]) -> "Value":
        """Each unit of the result sees all that the units along these dimensions saw; sizes stay."""
        value = self
        for index in indices:
            value = _sweep(value, index % self.rank)
        return value

    def loosened(self, index: int, size: int) -> "Value":
        """Dimension `index` becomes one of `size` whose units see something, unordered, of what was seen along it."""
        index %= self.rank
        moved = [any(factor.steps[axis] != 0 for factor in self.dims[index]) for axis in range(self.axes)]
        steps: tuple[Step, ...] = tuple(None if moves else 0 for moves in moved)
        return _sweep(self, index).with_dim(index, run(size, steps))


def size_of(dim: Dim) -> int:
    return math.prod(factor.size for factor in dim)


def run(size: int, steps: tuple[Step, ...]) -> Dim:
    """A dimension of one factor, or of none where its size is 1."""
    return () if size == 1 else (Factor(size, steps),)


def plain(size: int, axes: int) -> Dim:
    """A dimension along which nothing of what is seen changes."""
    return run(size, (0,) * axes)


def image(input_size: Sequence[int]) -> Value:
    """A batch of one image of (C, *axes): each pixel sees itself."""
    channels, *sizes = input_size
    axes = len(sizes)
    unit = [tuple(int(axis == other) for other in range(axes)) for axis in range(axes)]
    dims = [(), plain(channels, axes), *(run(size, unit[axis]) for axis, size in enumerate(sizes))]
    return Value(tuple(dims), tuple(Span(0, 1, 0, size - 1) for size in sizes))


def constant(shape: Iterable[int], axes: int) -> Value:
    """A tensor in which there is nothing of the image."""
    return Value(tuple(plain(size, axes) for size in shape))


def merged(dim: Dim) -> Dim:
    """The same dimension in as few factors as say the same."""
    factors: list[Factor] = []
    for factor in dim:
        if factors and factors[-1].continues(factor):
            factors[-1] = Factor(factors[-1].size * factor.size, factor.steps)
        else:
            factors.append(factor)
    return tuple(factors)


def _sweep(value: Value, index: int) -> Value:
    spans = list(value.spans)
    for factor in value.dims[index]:
        for axis, step in enumerate(factor.steps):
            if value.spans:
                spans[axis] = spans[axis].swept(step, factor.size)
    return Value(value.dims, tuple(spans)).with_dim(index, plain(size_of(value.dims[index]), _axes(value)))


def _axes(value: Value) -> int:
    return value.axes or next((len(factor.steps) for dim in value.dims for factor in dim), 0)
