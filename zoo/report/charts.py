"""Coordinates of line charts over epochs. templates/charts.html draws them as SVG."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 340.0, 200.0
LEFT, RIGHT, TOP, BOTTOM = 48.0, 10.0, 10.0, 34.0
MAX_MARKED_POINTS = 40  # a longer line is drawn without marks
ROUND_STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)


@dataclass(frozen=True)
class Series:
    """The values of a line, one per epoch; `style` is its CSS class."""

    name: str
    style: str
    values: tuple[float, ...]


@dataclass(frozen=True)
class Tick:
    """A labelled position along an axis, in SVG units."""

    position: float
    text: str


@dataclass(frozen=True)
class Line:
    """A series in SVG units."""

    name: str
    style: str
    points: tuple[tuple[float, float], ...]

    @property
    def path(self) -> str:
        return " ".join(f"{x:.1f},{y:.1f}" for x, y in self.points)

    @property
    def marks(self) -> tuple[tuple[float, float], ...]:
        return self.points if len(self.points) <= MAX_MARKED_POINTS else ()


@dataclass(frozen=True)
class Chart:
    """Lines over epochs, all in SVG units; `best_x` is the position of the best epoch."""

    title: str
    lines: tuple[Line, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    best_x: float | None
    width: float = WIDTH
    height: float = HEIGHT
    left: float = LEFT
    right: float = WIDTH - RIGHT
    top: float = TOP
    bottom: float = HEIGHT - BOTTOM


def over_epochs(
    title: str, epochs: Sequence[int], series: Sequence[Series], *, best: int | None = None, percent: bool = False
) -> Chart:
    """Return a chart with one line per series; values that are not finite have no point."""
    finite = [value for line in series for value in line.values if math.isfinite(value)] or [0.0]
    y_ticks = round_ticks(min(finite), max(finite), max_intervals=5)
    low, high = min(y_ticks[0], *finite), max(y_ticks[-1], *finite)
    first, last = epochs[0], epochs[-1]
    x_ticks = [
        tick for tick in round_ticks(first, last, max_intervals=7) if tick == round(tick) and first <= tick <= last
    ]

    def x(value: float) -> float:
        fraction = (value - first) / (last - first) if last > first else 0.5
        return LEFT + fraction * (WIDTH - LEFT - RIGHT)

    def y(value: float) -> float:
        fraction = (value - low) / (high - low) if high > low else 0.5
        return HEIGHT - BOTTOM - fraction * (HEIGHT - TOP - BOTTOM)

    def points(values: Sequence[float]) -> tuple[tuple[float, float], ...]:
        pairs = zip(epochs, values, strict=True)
        return tuple((x(epoch), y(value)) for epoch, value in pairs if math.isfinite(value))

    return Chart(
        title,
        tuple(Line(line.name, line.style, points(line.values)) for line in series),
        tuple(Tick(x(tick), f"{tick:g}") for tick in x_ticks),
        tuple(Tick(y(tick), f"{tick * 100:.4g} %" if percent else f"{tick:.4g}") for tick in y_ticks),
        x(best) if best is not None else None,
    )


def round_ticks(low: float, high: float, max_intervals: int) -> list[float]:
    """Return at most `max_intervals` + 1 evenly spaced round numbers whose range contains `low` and `high`."""
    span = high - low or abs(high) or 1.0
    least_step = span / (max_intervals - 1)
    power = 10.0 ** math.floor(math.log10(least_step))
    step = next(factor * power for factor in ROUND_STEPS if factor * power >= least_step * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [float(f"{step * multiple:.12g}") for multiple in range(first, max(last, first + 1) + 1)]
