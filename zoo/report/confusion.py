"""The confusion matrix as a table, or the most confused pairs of classes if there are too many for a table."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

MAX_CLASSES = 30  # of a readable table
MAX_PAIRS = 30


@dataclass(frozen=True)
class Cell:
    """One cell of the table; `share` is its part of the row's images."""

    count: int
    share: float
    is_correct: bool


@dataclass(frozen=True)
class ConfusedPair:
    """`count` of the `images` of class `truth` were predicted as `prediction`."""

    truth: str
    prediction: str
    count: int
    images: int


def confusion_table(counts: Tensor) -> list[list[Cell]] | None:
    """Return the rows of the table, or None for more than MAX_CLASSES classes."""
    if len(counts) > MAX_CLASSES:
        return None
    return [
        [Cell(count, count / max(1, sum(counts_of_row)), row == column) for column, count in enumerate(counts_of_row)]
        for row, counts_of_row in enumerate(counts.tolist())
    ]


def most_confused(counts: Tensor, labels: Sequence[str]) -> list[ConfusedPair]:
    """Return the MAX_PAIRS pairs with the highest counts; equal counts are in the order of the classes."""
    images, errors = counts.sum(dim=1).tolist(), counts.clone()
    errors.fill_diagonal_(0)
    pairs = [(row, column) for row, column in errors.nonzero().tolist()]
    pairs.sort(key=lambda pair: -int(errors[pair]))
    return [
        ConfusedPair(labels[row], labels[column], int(errors[row, column]), images[row])
        for row, column in pairs[:MAX_PAIRS]
    ]
