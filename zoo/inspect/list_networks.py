"""The networks by name, ours and timm's, with what is known of each at little cost."""

import fnmatch
from collections.abc import Sequence
from typing import Any

import timm
from rich import box
from rich.table import Table
from timm.models import get_pretrained_cfg

from zoo.catalog import CATALOG
from zoo.errors import GeometryError, UnknownNetworkError
from zoo.inspect.describe import roomy_console, short
from zoo.inspect.target import by, subject_of

MEASURED_AT_MOST = 24  # a longer list would take more than seconds

Row = dict[str, Any]


def model_rows(pattern: str, pretrained: bool) -> list[Row]:
    """The networks whose name `pattern` matches; `*` and `?` stand for any letters and for one.

    With `pretrained` there is one row for each set of weights, named NET.WEIGHTS. Parameters and MACs are there for
    a list of at most 24.

    Raises:
        UnknownNetworkError: nothing matches.
    """
    known = timm.list_models(pretrained=True) if pretrained else [*CATALOG, *_timms()]
    names = [name for name in known if _matches(name, pattern)]
    if not names:
        raise UnknownNetworkError(pattern, known if not pretrained else [*known, *_timms()])
    return [_row(name, measured=len(names) <= MEASURED_AT_MOST) for name in names]


def show(rows: Sequence[Row]) -> None:
    """Print the rows as a table, and how many there are."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    for name in rows[0]:
        table.add_column(name, justify="right" if name in ("parameters", "MACs") else "left", overflow="fold")
    for row in rows:
        table.add_row(*(_text(name, value) for name, value in row.items()))
    console = roomy_console()
    console.print(table)
    console.print(f"{len(rows)} {'networks' if len(rows) != 1 else 'network'}")


def _timms() -> list[str]:
    names: list[str] = [name for name in timm.list_models() if name not in CATALOG]
    return names


def _matches(name: str, pattern: str) -> bool:
    return fnmatch.fnmatchcase(name, pattern) or fnmatch.fnmatchcase(name.partition(".")[0], pattern)


def _row(name: str, measured: bool) -> Row:
    """`weights` names the default pretrained weights, or is None; their licence is None where timm does not say."""
    cfg = None if name in CATALOG else get_pretrained_cfg(name)
    weights = cfg if cfg and cfg.has_weights else None
    size = CATALOG[name].input_size if name in CATALOG else cfg.input_size if cfg else None
    row = {
        "network": name,
        "from": "zoonnx" if name in CATALOG else "timm",
        "input": by(size) if size else None,
        "weights": (weights.tag or "default") if weights else None,
        "licence": weights.license if weights else None,
    }
    return {**row, **_measured(name)} if measured else row


def _measured(name: str) -> Row:
    subject = subject_of(name)
    try:
        macs: int | None = subject.geometry().macs
    except GeometryError:
        macs = None
    return {"parameters": sum(each.numel() for each in subject.network.parameters()), "MACs": macs}


def _text(name: str, value: object) -> str:
    if value is None:
        return "-"
    return (
        short(value)
        if name == "MACs" and isinstance(value, int)
        else f"{value:,}"
        if isinstance(value, int)
        else str(value)
    )
