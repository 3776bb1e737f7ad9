"""Line charts with a logarithmic x axis, drawn as an image."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from PIL import Image, ImageDraw, ImageFont

WIDTH, HEIGHT = 860, 500
LEFT, RIGHT, TOP, BOTTOM = 74, 24, 52, 60
PAPER, INK, FAINT, GRID = (252, 252, 250), (28, 28, 32), (110, 110, 118), (226, 226, 222)
COLOURS = [(36, 92, 168), (206, 92, 40), (46, 132, 86), (128, 70, 150)]
MAX_Y_TICKS = 6

Point = tuple[float, float]


@dataclass(frozen=True)
class Line:
    """One line of a chart.

    Attributes:
        name: its text in the legend.
        points: (x, y), by increasing x.
        bounds: (low, high) of y at each point, drawn as error bars; empty for none.
        is_faint: draw a thin grey line.
    """

    name: str
    points: Sequence[Point]
    bounds: Sequence[Point] = ()
    is_faint: bool = False


@dataclass(frozen=True)
class Chart:
    """A chart.

    Attributes:
        title: text above the chart.
        x_name: name of the x axis.
        y_name: name of the y axis.
        lines: at least one.
        x_ticks: values of x that are labelled.
        marks: values of x that are marked by a vertical line, by their text.
    """

    title: str
    x_name: str
    y_name: str
    lines: Sequence[Line]
    x_ticks: Sequence[float]
    marks: Mapping[str, float] = field(default_factory=dict)

    def draw(self) -> Image.Image:
        image = Image.new("RGB", (WIDTH, HEIGHT), PAPER)
        pen = ImageDraw.Draw(image)
        frame = _Frame.enclosing(self.lines)
        pen.text((LEFT, 14), self.title, INK, _font(17))
        self._axes(pen, frame)
        for line, colour in zip(self.lines, _colours(self.lines), strict=True):
            _draw_line(pen, frame, line, colour)
        self._marks(pen, frame)
        self._legend(pen)
        return image

    def _axes(self, pen: Any, frame: "_Frame") -> None:
        for y in _round_ticks(frame.low, frame.high):
            _, row = frame.to_pixels((frame.first, y))
            pen.line((LEFT, row, WIDTH - RIGHT, row), GRID)
            pen.text((LEFT - 8, row), f"{y:g}", FAINT, _font(13), anchor="rm")
        for x in self.x_ticks:
            column, _ = frame.to_pixels((x, frame.low))
            pen.line((column, TOP, column, HEIGHT - BOTTOM), GRID)
            pen.text((column, HEIGHT - BOTTOM + 6), f"{x:g}", FAINT, _font(13), anchor="ma")
        pen.text(((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 10), self.x_name, INK, _font(14), anchor="ms")
        pen.text((LEFT, TOP - 4), self.y_name, FAINT, _font(13), anchor="ls")

    def _marks(self, pen: Any, frame: "_Frame") -> None:
        for number, (name, x) in enumerate(self.marks.items()):
            column, _ = frame.to_pixels((x, frame.low))
            pen.line((column, TOP, column, HEIGHT - BOTTOM), INK, 2)
            side, anchor = (column - 6, "ra") if column > WIDTH / 2 else (column + 6, "la")
            pen.text((side, TOP + 4 + 18 * number), name, INK, _font(13), anchor=anchor)

    def _legend(self, pen: Any) -> None:
        right = WIDTH - RIGHT
        for line, colour in reversed(list(zip(self.lines, _colours(self.lines), strict=True))):
            pen.text((right, TOP - 12), line.name, INK, _font(13), anchor="rm")
            right -= int(pen.textlength(line.name, _font(13))) + 8
            pen.line((right - 22, TOP - 12, right, TOP - 12), colour, 3)
            right -= 40


@dataclass(frozen=True)
class _Frame:
    """The data coordinates of the drawing's edges."""

    first: float
    last: float
    low: float
    high: float

    @classmethod
    def enclosing(cls, lines: Sequence[Line]) -> "_Frame":
        xs = [x for line in lines for x, _ in line.points]
        ys = [y for line in lines for _, y in line.points] + [y for line in lines for pair in line.bounds for y in pair]
        margin = 0.04 * (max(ys) - min(ys)) or 1.0
        spread = (max(xs) / min(xs)) ** 0.03 if max(xs) > min(xs) else 2.0
        return cls(min(xs) / spread, max(xs) * spread, min(ys) - margin, max(ys) + margin)

    def to_pixels(self, point: Point) -> Point:
        """Return the point's pixels from the left and from the top."""
        x = math.log(point[0] / self.first) / math.log(self.last / self.first)
        y = (point[1] - self.low) / (self.high - self.low)
        return LEFT + x * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - y * (HEIGHT - TOP - BOTTOM)


def _colours(lines: Sequence[Line]) -> list[tuple[int, int, int]]:
    return [(190, 196, 206) if line.is_faint else COLOURS[index % len(COLOURS)] for index, line in enumerate(lines)]


def _draw_line(pen: Any, frame: _Frame, line: Line, colour: tuple[int, int, int]) -> None:
    pen.line([frame.to_pixels(point) for point in line.points], colour, 1 if line.is_faint else 3)
    for (x, y), (low, high) in zip(line.points, line.bounds, strict=bool(line.bounds)):
        column, row = frame.to_pixels((x, y))
        pen.line((column, frame.to_pixels((x, low))[1], column, frame.to_pixels((x, high))[1]), colour, 2)
        pen.ellipse((column - 5, row - 5, column + 5, row + 5), colour)


def _round_ticks(low: float, high: float) -> list[float]:
    """Return the multiples of 1, 2 or 5 times a power of ten between `low` and `high`."""
    power = 10.0 ** math.floor(math.log10((high - low) / MAX_Y_TICKS))
    step = next(power * factor for factor in (1, 2, 5, 10) if (high - low) / (power * factor) <= MAX_Y_TICKS)
    return [step * index for index in range(math.ceil(low / step), math.floor(high / step) + 1)]


@cache
def _font(size: int) -> Any:
    return ImageFont.load_default(size)
