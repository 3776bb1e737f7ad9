"""Multi-label image folders: a table PATH/labels.csv names the labels of each image.

    file,labels            or  file,labels,split
    birds/1.jpg,bird;sky       birds/1.jpg,bird;sky,train
    2.png,                     2.png,,test

`file` is relative to PATH. Labels are separated by `;`; an image may have none. The splits are train, val and test; if
a table has no val or no test, it is held out of train.
"""

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import get_args

import torch
from torch import Tensor

from zoo.data.holdout import holdout_split_multilabel
from zoo.errors import DataError
from zoo.settings import SplitName

TABLE = "labels.csv"
COLUMNS = ["file", "labels"]
SPLIT = "split"
SEPARATOR = ";"
SPLITS = get_args(SplitName)


@dataclass(frozen=True)
class Row:
    """One image of the table; `split` is empty if the table has no such column."""

    file: Path
    labels: frozenset[str]
    split: str


def read_table(root: Path) -> list[Row]:
    """Return the rows of root/labels.csv, in order.

    Raises:
        DataError: the table cannot be read, or a row is invalid; the message names the row.
    """
    table = root / TABLE
    try:
        with table.open(newline="", encoding="utf-8-sig") as lines:
            reader = csv.reader(lines, strict=True)
            header = [name.strip() for name in next(reader, [])]
            if header not in (COLUMNS, [*COLUMNS, SPLIT]):
                raise DataError(f"{table} must start with 'file,labels' or 'file,labels,split'; found {header}")
            rows = list(_rows(root, reader, len(header)))
    except (OSError, UnicodeError, csv.Error) as error:
        raise DataError(f"{table} cannot be read as a CSV table in UTF-8: {error}") from error
    _check_unique(table, rows)
    return rows


def multi_hot(rows: Sequence[Row], labels: Sequence[str]) -> Tensor:
    """Return 0 or 1 for each label of each row, int64 (N, labels)."""
    values = [[int(label in row.labels) for label in labels] for row in rows]
    return torch.tensor(values, dtype=torch.int64).reshape(len(rows), len(labels))


def split_rows(root: Path, rows: Sequence[Row], labels: Sequence[str]) -> dict[str, list[Row]]:
    """Return the rows of train, val and test.

    Raises:
        DataError: too few images to hold any out, or a label that no training image has.
    """
    listed = {name: [row for row in rows if (row.split or "train") == name] for name in SPLITS}
    train, missing = listed["train"], [name for name in SPLITS if not listed[name]]
    if len(train) <= len(missing):
        raise DataError(f"{root / TABLE} has {len(train)} training images; splitting them needs at least 3")
    keys = [row.file.relative_to(root).as_posix() for row in train]
    held_out = holdout_split_multilabel(keys, multi_hot(train, labels), missing)
    splits = listed | {name: [train[index] for index in indices] for name, indices in held_out.items()}
    for label in labels:
        if not any(label in row.labels for row in splits["train"]):
            raise DataError(f"no training image in {root / TABLE} has the label '{label}'; at least one is needed")
    return splits


def _rows(root: Path, reader: Iterator[list[str]], width: int) -> Iterator[Row]:
    for number, cells in enumerate(reader, start=2):
        location = f"{root / TABLE}, row {number}"
        if not cells:
            continue
        if len(cells) != width:
            raise DataError(f"{location}: {len(cells)} cells, but the header has {width}; quote names with commas")
        name, split = cells[0].strip(), cells[2].strip() if width > len(COLUMNS) else ""
        if not name or PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise DataError(f"{location}: the file '{name}' must be a relative path inside {root}")
        if width > len(COLUMNS) and split not in SPLITS:
            raise DataError(f"{location}: the split must be {', '.join(SPLITS)}; got '{split}'")
        labels = (label.strip() for label in cells[1].split(SEPARATOR))
        yield Row(root / name, frozenset(label for label in labels if label), split)


def _check_unique(table: Path, rows: Sequence[Row]) -> None:
    seen: set[Path] = set()
    for row in rows:
        if row.file in seen:
            raise DataError(f"{table} lists {row.file.name} twice; put all labels of an image in one row")
        seen.add(row.file)
