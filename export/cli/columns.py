"""Aligned columns of text that fit the terminal without breaking a number or a name.

Only the last column wraps, between words. A word wider than the column, such as a long layer name, and a path are
printed unbroken beyond the terminal's width.
"""

import textwrap
from collections.abc import Sequence
from pathlib import Path

GAP = 2  # spaces between columns
MIN_WIDTH = 20  # of the last column, in characters

Cell = str | Path


def format_rows(rows: Sequence[Sequence[Cell]], width: int) -> list[str]:
    """Return one text per row, of one or more lines; `width` is that of the terminal."""
    widths = column_widths(rows)
    indent = sum(widths) + GAP * len(widths)
    texts = []
    for *cells, last in rows:
        start = "".join(str(cell).ljust(size + GAP) for cell, size in zip(cells, widths, strict=True))
        lines = [str(last)] if isinstance(last, Path) else wrap(last, max(MIN_WIDTH, width - indent))
        texts.append(f"\n{' ' * indent}".join([start + lines[0], *lines[1:]]).rstrip())
    return texts


def column_widths(rows: Sequence[Sequence[Cell]]) -> list[int]:
    """Return the widths of all columns but the last, without the gaps between them."""
    return [max(len(str(cell)) for cell in column) for column in zip(*(row[:-1] for row in rows), strict=True)]


def wrap(text: str, width: int) -> list[str]:
    """Break `text` between words into lines of at most `width` characters; a longer word has a line of its own."""
    return textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False) or [""]
