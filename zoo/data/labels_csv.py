"""Images with any number of labels: a folder with a table, PATH/labels.csv.

    file,labels            or  file,labels,split
    birds/1.jpg,bird;sky       birds/1.jpg,bird;sky,train
    2.png,                     2.png,,test

`file` is relative to PATH, labels have `;` between them, an image may have none. The splits are train, val and test;
where a table has no val or no test, images of train are held out for it.
"""

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import get_args

import torch
from torch import Tensor

from zoo.data.holdout import divide_labels
from zoo.errors import DataError
from zoo.settings import SplitName

TABLE = "labels.csv"
COLUMNS = ["file", "labels"]
SPLIT = "split"
SEPARATOR = ";"
SPLITS = get_args(SplitName)


@dataclass(frozen=True)
class Row:
    """One image of the table; `split` is empty where the table has no such column."""

    file: Path
    labels: frozenset[str]
    split: str


def read_table(root: Path) -> list[Row]:
    """The rows of root/labels.csv, in order.

    Raises:
        DataError: the table cannot be read, or a row is not as it should be; the line is named.
    """
    table = root / TABLE
    try:
        with table.open(newline="", encoding="utf-8-sig") as lines:
            reader = csv.reader(lines, strict=True)
            header = [name.strip() for name in next(reader, [])]
            if header not in (COLUMNS, [*COLUMNS, SPLIT]):
                raise DataError(
                    f"{table} should begin with the line 'file,labels' or 'file,labels,split'; it has {header}"
                )
            rows = list(_rows(root, reader, len(header)))
    except (OSError, UnicodeError, csv.Error) as error:
        raise DataError(f"{table} cannot be read as a table in UTF-8: {error}") from error
    _check_once(table, rows)
    return rows


def multi_hot(rows: Sequence[Row], labels: Sequence[str]) -> Tensor:
    """A 0 or 1 for each label of each row, int64 (N, labels)."""
    has = [[int(label in row.labels) for label in labels] for row in rows]
    return torch.tensor(has, dtype=torch.int64).reshape(len(rows), len(labels))


def split_rows(root: Path, rows: Sequence[Row], labels: Sequence[str]) -> dict[str, list[Row]]:
    """The rows of train, val and test.

    Raises:
        DataError: too few images to divide, or a label that no training image has.
    """
    given = {name: [row for row in rows if (row.split or "train") == name] for name in SPLITS}
    train, missing = given["train"], [name for name in SPLITS if not given[name]]
    if len(train) <= len(missing):
        raise DataError(f"{root / TABLE} has {len(train)} images to train on; to divide them it takes 3 or more")
    keys = [row.file.relative_to(root).as_posix() for row in train]
    parts = divide_labels(keys, multi_hot(train, labels), missing)
    splits = given | {name: [train[index] for index in indices] for name, indices in parts.items()}
    for label in labels:
        if not any(label in row.labels for row in splits["train"]):
            raise DataError(f"no training image of {root / TABLE} has the label '{label}'; it takes one at least")
    return splits


def _rows(root: Path, reader: "Iterator[list[str]]", width: int) -> Iterator[Row]:
    for number, cells in enumerate(reader, start=2):
        where = f"{root / TABLE}, row {number}"
        if not cells:
            continue
        if len(cells) != width:
            raise DataError(f"{where}: it has {len(cells)} cells, the first row {width}; quote a name with a comma")
        name, split = cells[0].strip(), cells[2].strip() if width > len(COLUMNS) else ""
        if not name or PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise DataError(f"{where}: the file '{name}' should be a path within {root}")
        if width > len(COLUMNS) and split not in SPLITS:
            raise DataError(f"{where}: the split should be {', '.join(SPLITS)}; it is '{split}'")
        yield Row(root / name, frozenset(label.strip() for label in cells[1].split(SEPARATOR) if label.strip()), split)


def _check_once(table: Path, rows: Sequence[Row]) -> None:
    seen: set[Path] = set()
    for row in rows:
        if row.file in seen:
            raise DataError(f"{table} names {row.file.name} twice; give all labels of an image in one row")
        seen.add(row.file)
