"""Numbers as places on a chart. The drawing itself is in templates/charts.html."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 340.0, 200.0
LEFT, RIGHT, TOP, BOTTOM = 48.0, 10.0, 10.0, 34.0
MOST_MARKED = 40  # points of a line that get a mark each
STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)


@dataclass(frozen=True)
class Series:
    """A line: a value for each x; `style` is its CSS class."""

    name: str
    style: str
    values: tuple[float, ...]


@dataclass(frozen=True)
class Tick:
    """A place along an axis in the drawing's units, and what is written there."""

    place: float
    text: str


@dataclass(frozen=True)
class Line:
    """A series in the drawing's units."""

    name: str
    style: str
    points: tuple[tuple[float, float], ...]

    @property
    def path(self) -> str:
        return " ".join(f"{x:.1f},{y:.1f}" for x, y in self.points)

    @property
    def marks(self) -> tuple[tuple[float, float], ...]:
        return self.points if len(self.points) <= MOST_MARKED else ()


@dataclass(frozen=True)
class Chart:
    """Lines over epochs; `best_x` is where the best epoch lies."""

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
    """A chart of each series over the epochs; values that are no numbers leave their place empty."""
    known = [value for each in series for value in each.values if math.isfinite(value)] or [0.0]
    y_marks = nice(min(known), max(known), most=5)
    low, high = min(y_marks[0], *known), max(y_marks[-1], *known)
    first, last = epochs[0], epochs[-1]
    x_marks = [mark for mark in nice(first, last, most=7) if mark == round(mark) and first <= mark <= last]

    def x(value: float) -> float:
        share = (value - first) / (last - first) if last > first else 0.5
        return LEFT + share * (WIDTH - LEFT - RIGHT)

    def y(value: float) -> float:
        share = (value - low) / (high - low) if high > low else 0.5
        return HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)

    lines = [
        Line(
            each.name,
            each.style,
            tuple((x(e), y(v)) for e, v in zip(epochs, each.values, strict=True) if math.isfinite(v)),
        )
        for each in series
    ]
    return Chart(
        title,
        tuple(lines),
        tuple(Tick(x(mark), f"{mark:g}") for mark in x_marks),
        tuple(Tick(y(mark), f"{mark:.4g}" if not percent else f"{mark * 100:.4g} %") for mark in y_marks),
        x(best) if best is not None else None,
    )


def nice(low: float, high: float, most: int) -> list[float]:
    """At most `most` + 1 round numbers, evenly spaced, from at most `low` to at least `high`."""
    span = high - low or abs(high) or 1.0
    rough = span / (most - 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(each * power for each in STEPS if each * power >= rough * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [float(f"{step * place:.12g}") for place in range(first, max(last, first + 1) + 1)]
