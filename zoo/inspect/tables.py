"""Tables that fit the width of the terminal: whole columns are hidden, the least important first."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

FILE_WIDTH = 120  # of output to a file or pipe, unless COLUMNS is set
GAP = 2  # spaces between two columns


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        heading: its first line.
        cells: one text per row, each a single line.
        justify: alignment of the cells and the heading.
    """

    heading: str
    cells: Sequence[str]
    justify: Literal["left", "right"] = "left"

    @property
    def width(self) -> int:
        return max(map(cell_len, (self.heading, *self.cells)))


def fitting(columns: Sequence[Column], importance: Sequence[str], width: int) -> list[Column]:
    """Return the columns that fit into `width`, in their own order.

    `importance` lists the headings, the most important first; columns are hidden from its end. The first column
    always stays, even if it is wider than `width`.
    """
    visible = list(columns)
    for heading in reversed(importance):
        if table_width(visible) <= width:
            break
        visible = [column for column in visible if column is columns[0] or column.heading != heading]
    return visible


def table_width(columns: Sequence[Column]) -> int:
    return sum(column.width for column in columns) + GAP * (len(columns) - 1)


def build_table(columns: Sequence[Column], styles: Sequence[str] = ()) -> Table:
    """Return a table in which no cell is folded or cut; `styles` has one style per row."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1), collapse_padding=True)
    for column in columns:
        table.add_column(Text(column.heading), justify=column.justify, no_wrap=True, min_width=column.width)
    for index, cells in enumerate(zip(*(column.cells for column in columns), strict=True)):
        table.add_row(*map(Text, cells), style=styles[index] if styles else "")
    return table


def print_table(columns: Sequence[Column], importance: Sequence[str], styles: Sequence[str] = ()) -> None:
    """Print the columns that fit, and one line that names those that do not."""
    width = output_width()
    visible = fitting(columns, importance, width)
    console = Console(width=max(width, table_width(visible)))
    console.print(build_table(visible, styles))
    omitted = [column.heading for column in columns if column not in visible]
    if omitted:
        note = f"hidden at width {width}: {', '.join(omitted)} (use --json or a wider terminal)"
        Console(width=width).print(Text(note, style="dim"))


def output_width() -> int:
    """Return the width of the terminal; for other output that of COLUMNS, else FILE_WIDTH."""
    console = Console()
    if console.is_terminal or os.environ.get("COLUMNS", "").isdecimal():
        return console.width
    return FILE_WIDTH
