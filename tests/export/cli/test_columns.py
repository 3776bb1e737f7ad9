"""Tables on the terminal keep their first columns and never break a number or a name."""

from pathlib import Path

import pytest

from export import Exported
from export.check.run import check_model
from export.cli.check import table
from export.cli.columns import column_widths, format_rows, wrap
from export.cli.export import summary
from tests.export.check.conftest import SCHEMA_1

WIDTHS = (80, 100, 120)


@pytest.mark.parametrize("width", WIDTHS)
def test_table_of_checks(width: int) -> None:
    """The table fits the terminal; check and result are complete, and the details wrap between words."""
    (report,) = check_model(SCHEMA_1)
    lines = [line for row in table(report, width) for line in row.plain.split("\n")]
    assert max(map(len, lines)) <= width
    starts = [line.split("  ")[0] for line in lines if not line.startswith(" ")]
    assert starts == ["check", *(result.check for result in report.results)]
    text = " ".join(" ".join(lines).split())
    for result in report.results:
        assert f"{result.check} {result.status} {result.details}" in text


@pytest.mark.parametrize("width", WIDTHS)
def test_long_names_and_paths(width: int) -> None:
    """A name wider than the column and a path are printed unbroken; all other text stays in the column."""
    name, path = "layer1." * 30 + "bn", Path("/a folder/with spaces") / ("x" * 200)
    rows = [("worst layer", f"SQNR of 12.3 dB at {name} in the test images"), ("folder", path)]
    texts = format_rows(rows, width)
    assert texts[0].split("\n") == [
        "worst layer  SQNR of 12.3 dB at",
        f"             {name}",
        "             in the test images",
    ]
    assert texts[1] == f"folder       {path}"


def test_wrap() -> None:
    """Lines break only between words, not at the hyphens of a name."""
    assert wrap("a resnet-18 model", 6) == ["a", "resnet-18", "model"]
    assert wrap("", 6) == [""]


def test_column_widths() -> None:
    """The widths are those of all columns but the last."""
    assert column_widths([("a", "bcd", "e" * 99), ("ab", "c", "")]) == [2, 3]


@pytest.mark.parametrize("width", WIDTHS)
def test_summary_of_an_export(exported: Exported, width: int) -> None:
    """The summary fits the terminal, except for complete paths, and breaks only between words."""
    facts = summary(exported)
    for (label, value), text in zip(facts, format_rows(facts, width), strict=True):
        assert " ".join(text.split()) == f"{label} {value}"
        assert isinstance(value, Path) or max(map(len, text.split("\n"))) <= width
