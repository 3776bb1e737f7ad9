"""Which classes are taken for which: a table where it can be read, else the pairs that are mixed up most."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

MOST_CLASSES = 30  # of a table that can be read
MOST_PAIRS = 30


@dataclass(frozen=True)
class Cell:
    """`share` is that of the row's images."""

    count: int
    share: float
    is_right: bool


@dataclass(frozen=True)
class Pair:
    """`count` of the `images` of class `truth` were taken for `answer`."""

    truth: str
    answer: str
    count: int
    images: int


def table(counts: Tensor) -> list[list[Cell]] | None:
    """The rows of the table; None for so many classes that nobody could read it."""
    if len(counts) > MOST_CLASSES:
        return None
    return [
        [Cell(count, count / max(1, sum(row)), place == column) for column, count in enumerate(row)]
        for place, row in enumerate(counts.tolist())
    ]


def most_confused(counts: Tensor, labels: Sequence[str]) -> list[Pair]:
    """The MOST_PAIRS pairs with the highest counts; among equals, in the order of the classes."""
    images, wrong = counts.sum(dim=1).tolist(), counts.clone()
    wrong.fill_diagonal_(0)
    places = [(row, column) for row, column in wrong.nonzero().tolist()]
    places.sort(key=lambda place: -int(wrong[place]))
    return [
        Pair(labels[row], labels[column], int(wrong[row, column]), images[row]) for row, column in places[:MOST_PAIRS]
    ]
