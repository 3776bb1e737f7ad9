"""Receptive fields of a layer's units along one axis of the image, and the inverse: the units that see a pixel."""

import math
from dataclasses import dataclass
from fractions import Fraction

from zoo.geometry.values import Factor, Number, Step, Value, merged, size_of


@dataclass(frozen=True)
class ReceptiveField:
    """The receptive fields of a layer's units along one axis of the image.

    Unit i sees `extent` pixels starting at `start + jump * (i // repeat)`, clipped to the pixels `low` to `high`.

    Attributes:
        pixels: the image's size along this axis.
        units: the layer's size along this axis.
        extent: pixels in one unit's receptive field, before clipping.
        jump: pixels from one unit's field to the next; 0 for a layer without units along this axis, as after a
            global pool; None where the units are in no linear order.
        start: first pixel of unit 0's field; negative where padding comes before the image.
        low: first pixel that any unit sees.
        high: last pixel that any unit sees.
        exact: False if the field is an upper bound.
        repeat: adjacent units with the same field, as after nearest-neighbour upsampling.
    """

    pixels: int
    units: int
    extent: Number
    jump: Step
    start: Number
    low: Number
    high: Number
    exact: bool
    repeat: int = 1

    @property
    def size(self) -> int:
        """The receptive field in pixels, including any part outside the image; clipped to the image if jump is 0."""
        return math.floor(self.extent) if self.jump else len(self.box(0))

    @property
    def sees_whole_axis(self) -> bool:
        """Whether every unit sees the whole axis."""
        return not self.jump and self.size == self.pixels

    def box(self, unit: int) -> range:
        """Return the pixels that `unit` sees.

        Raises:
            IndexError: there is no such unit.
        """
        if not 0 <= unit < self.units:
            raise IndexError(f"unit {unit} is out of range: the layer has {self.units} units")
        first = self.start + (self.jump or 0) * (unit // self.repeat)
        last = first + self.extent - 1
        return range(math.ceil(max(first, self.low)), math.floor(min(last, self.high)) + 1)

    def units_seeing(self, pixel: int) -> range:
        """Return the units that see `pixel`: the inverse of `box`.

        Raises:
            IndexError: the image has no such pixel.
        """
        if not 0 <= pixel < self.pixels:
            raise IndexError(f"pixel {pixel} is out of range: the image has {self.pixels} pixels")
        if not self.jump:
            return range(self.units if pixel in self.box(0) else 0)
        if not self.low <= pixel <= self.high:
            return range(0)
        ends = [Fraction(pixel - self.start - offset) / self.jump for offset in (0, self.extent - 1)]
        first, last = max(0, math.ceil(min(ends))), math.floor(max(ends))
        return range(first * self.repeat, min(self.units, (last + 1) * self.repeat))


def fields_of(value: Value, input_size: tuple[int, ...]) -> tuple[ReceptiveField, ...]:
    """Return one field per image axis for an input of (C, *axes); none if `value` does not depend on the image."""
    return tuple(_field(value, axis, input_size[1 + axis]) for axis in range(value.axes))


def _field(value: Value, axis: int, pixels: int) -> ReceptiveField:
    span = value.spans[axis]
    moving = [(factor.size, factor.steps[axis]) for dim in value.dims for factor in dim if factor.steps[axis] != 0]
    units, jump = math.prod(size for size, _ in moving), _jump(moving)
    if jump is None:
        for size, step in moving:
            span = span.swept(step, size)
    exact = not moving or (jump is not None and not span.bound)
    repeat = _repeat(value, axis)
    return ReceptiveField(pixels, units * repeat, span.size, jump, span.start, span.low, span.high, exact, repeat)


def _repeat(value: Value, axis: int) -> int:
    """Return how often each row of a map is repeated, as after nearest-neighbour upsampling."""
    for dim in value.dims:
        if dim and dim[0].steps[axis] != 0 and not any(factor.moves for factor in dim[1:]):
            return size_of(dim[1:])
    return 1


def _jump(moving: list[tuple[int, Step]]) -> Step:
    """Return the step between adjacent units if the factors form one linear run, 0 without factors, else None."""
    if any(step is None for _, step in moving):
        return None
    ordered = sorted(((size, step) for size, step in moving if step), key=lambda pair: min(pair[1], -pair[1]))
    linear_run = merged(tuple(Factor(size, (step,)) for size, step in ordered))
    return linear_run[0].steps[0] if len(linear_run) == 1 else None if linear_run else 0
