"""Symbolic tensors: the sizes of a tensor, and the part of the image that each of its units sees.

Each dimension is a product of factors, outermost first: 196 tokens made from a 14x14 map are 14 x 14. One step along a
factor moves the receptive field by that factor's `steps`, one number per image axis: (16, 0) along the map's rows,
(0, 16) along its columns, (0, 0) along channels. So on each image axis, a unit sees `size` pixels starting at
`start + sum(step * index)`, clipped to `low` .. `high`. Convolution, pooling, reshaping, permuting and windowed
attention all preserve this form, so receptive fields can be computed in closed form.

A step of None means that the field varies along the factor, within the span, but not linearly (after a concatenation of
tokens, a roll, a gather). The span is then an upper bound.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

Number = int | Fraction
Step = Number | None


@dataclass(frozen=True)
class Factor:
    """One factor of a dimension: its size, and how far one step along it moves the field on each image axis."""

    size: int
    steps: tuple[Step, ...]

    @property
    def moves(self) -> bool:
        """Whether the receptive field depends on the index along this factor."""
        return any(step != 0 for step in self.steps)

    def split(self, outer: int) -> tuple["Factor", "Factor"]:
        """Return the same factor as two factors, the first of size `outer`."""
        inner = self.size // outer
        outer_steps = tuple(None if step is None else step * inner for step in self.steps)
        return Factor(outer, outer_steps), Factor(inner, self.steps)

    def continues(self, inner: "Factor") -> bool:
        """Whether `self` followed by `inner` is one linear run."""
        return all(
            outer is not None and step is not None and outer == step * inner.size
            for outer, step in zip(self.steps, inner.steps, strict=True)
        )


Dim = tuple[Factor, ...]


@dataclass(frozen=True)
class Span:
    """The receptive field of the unit at index 0 along one image axis, and the limits for all units.

    Attributes:
        start: first pixel; may lie outside the image.
        size: number of pixels.
        low: first pixel that any unit sees.
        high: last pixel that any unit sees.
        bound: `start` and `size` are rounded outwards, as between the pixels of an interpolation.
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
        """Whether `self` contains `other`; only spans that do not move may be clipped to the image first."""
        if moves:
            return self.start <= other.start and self.end >= other.end
        low, high = max(self.start, self.low), min(self.end, self.high)
        return low <= max(other.start, other.low) and high >= min(other.end, other.high)

    def swept(self, step: Step, count: int) -> "Span":
        """Return the smallest span that contains the spans of `count` units, `step` pixels apart."""
        if not step or count == 1:
            return self
        distance = step * (count - 1)
        return replace(self, start=self.start + min(0, distance), size=self.size + max(distance, -distance))

    def joined(self, other: "Span") -> "Span":
        """Return the smallest span that contains both."""
        start = min(self.start, other.start)
        size = max(self.end, other.end) - start + 1
        return Span(start, size, min(self.low, other.low), max(self.high, other.high), self.bound or other.bound)


@dataclass(frozen=True)
class Value:
    """A symbolic tensor.

    Attributes:
        dims: the dimensions, each a tuple of factors.
        spans: one per image axis; empty for a tensor that does not depend on the image.
        margins: per dimension, how many of its last rows are padding; set by padding operations only.
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
        """Return a value of the same shape whose units see the union of the fields along these dimensions."""
        value = self
        for index in indices:
            value = _sweep(value, index % self.rank)
        return value

    def loosened(self, index: int, size: int) -> "Value":
        """Replace dimension `index` by one of `size` whose units see unordered parts of the union along it."""
        index %= self.rank
        moved = [any(factor.steps[axis] != 0 for factor in self.dims[index]) for axis in range(self.axes)]
        steps: tuple[Step, ...] = tuple(None if moves else 0 for moves in moved)
        return _sweep(self, index).with_dim(index, linear_dim(size, steps))


def size_of(dim: Dim) -> int:
    return math.prod(factor.size for factor in dim)


def linear_dim(size: int, steps: tuple[Step, ...]) -> Dim:
    """Return a dimension of one factor, or of none if its size is 1."""
    return () if size == 1 else (Factor(size, steps),)


def constant_dim(size: int, axes: int) -> Dim:
    """Return a dimension along which the receptive field does not change."""
    return linear_dim(size, (0,) * axes)


def image(input_size: Sequence[int]) -> Value:
    """Return a batch of one image of (C, *axes): each pixel sees itself."""
    channels, *sizes = input_size
    axes = len(sizes)
    unit_steps = [tuple(int(axis == other) for other in range(axes)) for axis in range(axes)]
    image_dims = (linear_dim(size, unit_steps[axis]) for axis, size in enumerate(sizes))
    return Value(((), constant_dim(channels, axes), *image_dims), tuple(Span(0, 1, 0, size - 1) for size in sizes))


def constant(shape: Iterable[int], axes: int) -> Value:
    """Return a tensor that does not depend on the image."""
    return Value(tuple(constant_dim(size, axes) for size in shape))


def merged(dim: Dim) -> Dim:
    """Return the same dimension with as few factors as possible."""
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
    unmoved = constant_dim(size_of(value.dims[index]), _axes(value))
    return Value(value.dims, tuple(spans)).with_dim(index, unmoved)


def _axes(value: Value) -> int:
    return value.axes or next((len(factor.steps) for dim in value.dims for factor in dim), 0)
