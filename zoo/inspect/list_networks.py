"""The networks by name, ours and timm's, with the properties that are quick to compute."""

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from timm.models import get_pretrained_cfg

from zoo.catalog import CATALOG, list_models
from zoo.errors import GeometryError, UnknownNetworkError
from zoo.inspect.describe import count, short
from zoo.inspect.tables import Column, print_table
from zoo.inspect.target import find_target, size_text

MAX_MEASURED = 24  # entries; measuring more takes too long
IMPORTANCE = ("network", "parameters", "MACs", "input", "weights", "licence", "from")

NetworkEntry = dict[str, Any]


def network_entries(pattern: str, pretrained: bool) -> list[NetworkEntry]:
    """Return the networks whose name matches `pattern`; `*` matches any characters, `?` a single one.

    With `pretrained` there is one entry per set of weights, named NETWORK.WEIGHTS. A list of at most
    MAX_MEASURED entries includes parameters and MACs.

    Raises:
        UnknownNetworkError: nothing matches.
    """
    names = list_models(pattern, pretrained=pretrained)
    if not names:
        raise UnknownNetworkError(pattern, [*list_models(pretrained=pretrained), *list_models()])
    return [_entry(name, measured=len(names) <= MAX_MEASURED) for name in names]


def show(entries: Sequence[NetworkEntry]) -> None:
    """Print the entries as a table, and their number."""
    columns = [
        Column(key, [_cell(key, entry[key]) for entry in entries], "right" if key in ("parameters", "MACs") else "left")
        for key in entries[0]
    ]
    print_table(columns, IMPORTANCE)
    Console().print(count(len(entries), "network"))


def _entry(name: str, measured: bool) -> NetworkEntry:
    """Return one entry: `weights` names the default weights, None without any; `licence` is None if timm has none."""
    cfg = None if name in CATALOG else get_pretrained_cfg(name)
    weights = cfg if cfg and cfg.has_weights else None
    size = CATALOG[name].input_size if name in CATALOG else cfg.input_size if cfg else None
    entry = {
        "network": name,
        "from": "zoonnx" if name in CATALOG else "timm",
        "input": size_text(size) if size else None,
        "weights": (weights.tag or "default") if weights else None,
        "licence": weights.license if weights else None,
    }
    return {**entry, **_costs(name)} if measured else entry


def _costs(name: str) -> NetworkEntry:
    target = find_target(name)
    try:
        macs: int | None = target.geometry().macs
    except GeometryError:
        macs = None
    return {"parameters": sum(parameter.numel() for parameter in target.network.parameters()), "MACs": macs}


def _cell(key: str, value: object) -> str:
    if value is None:
        return "-"
    if not isinstance(value, int):
        return str(value)
    return short(value) if key == "MACs" else f"{value:,}"
