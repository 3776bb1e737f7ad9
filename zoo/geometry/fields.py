"""The part of the image that the units of a layer see, along one axis of the image, and the way back."""

import math
from dataclasses import dataclass
from fractions import Fraction

from zoo.geometry.values import Factor, Number, Step, Value, merged, size_of


@dataclass(frozen=True)
class Field:
    """Unit i of `units` sees `extent` pixels from `start + jump * i` on, cut off at the pixels `low` and `high`.

    Where an image was enlarged, `repeat` neighbours see the same, and it is i // repeat that counts.

    `start` lies before the image where there is padding. `jump` is 0 for a layer without units along this axis, as
    after a global pool, and None where the units stand in no order. `exact` is False for an upper bound.
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
        """The receptive field in pixels, however much of it lies outside the image; inside, for a jump of 0."""
        return math.floor(self.extent) if self.jump else len(self.box(0))

    @property
    def whole(self) -> bool:
        """Whether every unit sees the axis from end to end."""
        return not self.jump and self.size == self.pixels

    def box(self, unit: int) -> range:
        """The pixels that `unit` sees.

        Raises:
            IndexError: there is no such unit.
        """
        if not 0 <= unit < self.units:
            raise IndexError(f"unit {unit} is not among the layer's {self.units}")
        first = self.start + (self.jump or 0) * (unit // self.repeat)
        last = first + self.extent - 1
        return range(math.ceil(max(first, self.low)), math.floor(min(last, self.high)) + 1)

    def units_seeing(self, pixel: int) -> range:
        """The units that see `pixel`: the inverse of `box`.

        Raises:
            IndexError: the image has no such pixel.
        """
        if not 0 <= pixel < self.pixels:
            raise IndexError(f"pixel {pixel} is not among the image's {self.pixels}")
        if not self.jump:
            return range(self.units if pixel in self.box(0) else 0)
        if not self.low <= pixel <= self.high:
            return range(0)
        ends = [Fraction(pixel - self.start - beyond) / self.jump for beyond in (0, self.extent - 1)]
        first, last = max(0, math.ceil(min(ends))), math.floor(max(ends))
        return range(first * self.repeat, min(self.units, (last + 1) * self.repeat))


def fields_of(value: Value, input_size: tuple[int, ...]) -> tuple[Field, ...]:
    """One field for each axis of the image; none for a tensor free of the image."""
    return tuple(_field(value, axis, input_size[1 + axis]) for axis in range(value.axes))


def _field(value: Value, axis: int, pixels: int) -> Field:
    span = value.spans[axis]
    moving = [(f.size, f.steps[axis]) for dim in value.dims for f in dim if f.steps[axis] != 0]
    units, jump = math.prod(size for size, _ in moving), _jump(moving)
    if jump is None:
        for size, step in moving:
            span = span.swept(step, size)
    exact = not moving or (jump is not None and not span.bound)
    repeat = _repeat(value, axis)
    return Field(pixels, units * repeat, span.size, jump, span.start, span.low, span.high, exact, repeat)


def _repeat(value: Value, axis: int) -> int:
    """How often each row of a map comes again, as after nearest-neighbour enlargement."""
    for dim in value.dims:
        if dim and dim[0].steps[axis] != 0 and not any(factor.moves for factor in dim[1:]):
            return size_of(dim[1:])
    return 1


def _jump(moving: list[tuple[int, Step]]) -> Step:
    """The step from one unit to the next, where the factors form one run; 0 for none, None for disorder."""
    if any(step is None for _, step in moving):
        return None
    ordered = sorted(((size, step) for size, step in moving if step), key=lambda each: min(each[1], -each[1]))
    run = merged(tuple(Factor(size, (step,)) for size, step in ordered))
    return run[0].steps[0] if len(run) == 1 else None if run else 0
