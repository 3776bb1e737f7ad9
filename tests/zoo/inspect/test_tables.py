"""Tables that fit the terminal, and the tables of `describe`, `compare` and `models` at several widths."""

import io
import json

import pytest
from rich.console import Console

from zoo.inspect.list_networks import network_entries
from zoo.inspect.tables import Column, build_table, fitting, output_width, table_width

COLUMNS = [
    Column("layer", ["layer1.0.conv1", "fc"]),
    Column("kind", ["Conv2d", "Linear"]),
    Column("parameters", ["9,408", "1,180,672"], "right"),
]
IMPORTANCE = ("layer", "parameters", "kind")


def rendered(columns: list[Column]) -> list[str]:
    """Return the lines of a table on a console that is just wide enough."""
    console = Console(file=io.StringIO(), width=table_width(columns))
    console.print(build_table(columns))
    return console.file.getvalue().splitlines()


@pytest.mark.parametrize(
    ("width", "headings"),
    [
        (34, ["layer", "kind", "parameters"]),
        (33, ["layer", "parameters"]),
        (26, ["layer", "parameters"]),
        (25, ["layer"]),
        (1, ["layer"]),
    ],
)
def test_least_important_columns_are_hidden_first(width, headings):
    """Whole columns are hidden in reverse order of importance; the first one always stays."""
    assert [column.heading for column in fitting(COLUMNS, IMPORTANCE, width)] == headings


def test_table_has_the_computed_width():
    """The rendered table is as wide as `table_width` returns, and every cell is on its row's line."""
    lines = rendered(COLUMNS)
    assert {len(line) for line in lines} == {table_width(COLUMNS)}
    assert lines[0].split() == ["layer", "kind", "parameters"]
    assert [line.split() for line in lines[2:]] == [
        ["layer1.0.conv1", "Conv2d", "9,408"],
        ["fc", "Linear", "1,180,672"],
    ]


def test_cells_are_plain_text():
    """Brackets in a name are not markup."""
    assert "[bold]x" in rendered([Column("layer", ["[bold]x"])])[2]


def printed_table(text: str) -> tuple[list[str], list[str]]:
    """Return the lines of a printed table, and the note that names hidden columns, if there is one."""
    lines = text.splitlines()
    first = next((index for index, line in enumerate(lines) if line.startswith("hidden")), len(lines))
    note, closed, _ = " ".join(map(str.strip, lines[first:])).partition("terminal)")
    return [line for line in lines[:first] if "  " in line], [note + closed] if note else []


@pytest.mark.parametrize(("width", "hidden"), [(80, ["window", "MACs", "stride"]), (100, []), (120, [])])
def test_describe_at_width(command, monkeypatch, width, hidden):
    """Every layer has a line with its full name, no line is wider than the output, and hidden columns are named."""
    monkeypatch.setenv("COLUMNS", str(width))
    rows, note = printed_table(command("describe", "resnet18").out)
    layers = json.loads(command("describe", "resnet18", "--json").out)["layers"]
    assert max(map(len, rows)) <= width
    assert "…" not in "".join(rows)
    assert [row.split()[0] for row in rows] == ["layer", *(layer["name"] for layer in layers)]
    assert all(f"{layer['parameters']:,}" in row.split() for row, layer in zip(rows[1:], layers, strict=True))
    assert_hidden(rows, note, width, hidden)


@pytest.mark.parametrize(
    ("width", "hidden"), [(80, ["layers", "peak", "exact", "pad", "drop"]), (100, ["exact", "pad"]), (120, [])]
)
def test_compare_at_width(command, monkeypatch, width, hidden):
    """Every network has a line with its full name and numbers, and hidden columns are named."""
    monkeypatch.setenv("COLUMNS", str(width))
    networks = ("resnet20", "resnet18", "vit_tiny_patch16_224")
    rows, note = printed_table(command("compare", *networks).out)
    assert max(map(len, rows)) <= width
    assert [row.split()[0] for row in rows] == ["network", *networks]
    totals = ("272,474", "11,689,512", "5,717,416")
    assert all(total in row.split() for row, total in zip(rows[1:], totals, strict=True))
    assert_hidden(rows, note, width, hidden)


@pytest.mark.parametrize("width", [40, 80])
def test_models_at_width(command, monkeypatch, width):
    """Names are not cut, even if they are wider than the terminal."""
    monkeypatch.setenv("COLUMNS", str(width))
    out = command("models", "vit_tiny_patch16_224.*", "--pretrained").out
    names = [entry["network"] for entry in network_entries("vit_tiny_patch16_224.*", pretrained=True)]
    assert max(map(len, names)) > 40
    assert [line.split()[0] for line in out.splitlines() if line.startswith("vit")] == names


def assert_hidden(rows: list[str], note: list[str], width: int, hidden: list[str]) -> None:
    """Check that these columns are missing from the heading, and are named in the one line below the table."""
    assert not {*hidden} & {*rows[0].split()}
    expected = f"hidden at width {width}: {', '.join(hidden)} (use --json or a wider terminal)"
    assert note == ([expected] if hidden else [])


@pytest.mark.parametrize(("columns", "expected"), [("90", 90), (None, 120), ("wide", 120)])
def test_width_without_a_terminal(monkeypatch, columns, expected):
    """Output to a file or pipe is as wide as COLUMNS, or 120 without it."""
    if columns is None:
        monkeypatch.delenv("COLUMNS", raising=False)
    else:
        monkeypatch.setenv("COLUMNS", columns)
    assert output_width() == expected
