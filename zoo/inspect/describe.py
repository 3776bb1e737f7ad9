"""A network as a table, one row for each layer that is called, and the same as plain data."""

from collections import Counter
from collections.abc import Iterable, Mapping
from fractions import Fraction
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from protos import manifest
from zoo.geometry.fields import Field
from zoo.geometry.measure import Geometry, Layer
from zoo.inspect.target import Subject, by

WIDE = 1000  # a pipe has no width: nothing is folded there

_EXPORTED = {
    manifest.EXACT: "value",
    manifest.ALIAS: "as {of}",
    manifest.FOLDED: "folded into {of}",
    manifest.NOT_EXPORTED: "absent",
}
_SHORT = {"kernel_size": "", "stride": "s", "padding": "p", "dilation": "d", "groups": "g"}


def as_table(subject: Subject, geometry: Geometry, depth: int | None) -> Table:
    """The layers down to `depth` dots in their paths plus one; all of them for None."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    table.add_column("layer", overflow="fold", min_width=12)
    for name in ("kind", "window", "output"):
        table.add_column(name, no_wrap=True)
    for name in ("parameters", "MACs", "sees"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("stride", no_wrap=True)
    if subject.exported:
        table.add_column("in the file", overflow="fold")
    for layer in _shown(geometry, depth):
        cells = [layer.name, layer.kind, window(layer.module), _volume(layer), *_costs(layer), *_sight(layer)]
        table.add_row(*cells, *([_in_file(subject, layer)] if subject.exported else []), style=_style(layer))
    return table


def summary(subject: Subject, geometry: Geometry) -> list[str]:
    """The totals, a line each."""
    lines = [
        f"{subject.name}, one input of {by(geometry.input_size)}: {count(geometry.parameters, 'parameter')}, "
        f"{geometry.macs:,} MACs ({short(geometry.macs)})",
        f"activations: {megabytes(geometry.memory_bytes)} in all, {megabytes(geometry.peak_bytes)} at once (float32)",
        _receptive_field(geometry),
        _strides(geometry),
    ]
    unknown = ", ".join(f"{name} ({times})" for name, times in geometry.unknown.items())
    return [*lines, f"unknown operations, and so unknown from there on: {unknown}"] if unknown else lines


def show(subject: Subject, geometry: Geometry, depth: int | None) -> None:
    """Print the table and the totals."""
    console = roomy_console()
    if depth != 0:
        console.print(as_table(subject, geometry, depth))
    for line in summary(subject, geometry):
        console.print(Text(line), soft_wrap=True)


def roomy_console() -> Console:
    """The terminal, or a page as wide as it needs to be where the output goes elsewhere."""
    console = Console()
    return console if console.is_terminal else Console(width=WIDE)


def as_json(subject: Subject, geometry: Geometry, depth: int | None) -> dict[str, Any]:
    """Everything the table shows, and the numbers behind it; sizes of tensors have the batch, 1, first."""
    return {
        "network": subject.name,
        "architecture": subject.architecture,
        "input_size": list(geometry.input_size),
        "parameters": geometry.parameters,
        "macs": geometry.macs,
        "activation_bytes": geometry.memory_bytes,
        "peak_activation_bytes": geometry.peak_bytes,
        "unknown_operations": dict(geometry.unknown),
        "layers": [_layer_json(subject, layer) for layer in _shown(geometry, depth)],
    }


def window(module: object) -> str:
    """Kernel, stride, padding, dilation and groups, where a module has them and they are not 1 (padding: not 0)."""
    if not hasattr(module, "kernel_size"):
        return ""
    parts = [f"{short}{_pair(getattr(module, name))}" for name, short in _SHORT.items() if _says(module, name)]
    return " ".join(parts)


def count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'s' * (number != 1)}"


def short(number: int) -> str:
    """Three digits and a unit: 1.81 G."""
    for unit, size in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if number >= size:
            return f"{number / size:.3g} {unit}" if number < 999.5 * size else f"{number / size:.0f} {unit}"
    return str(number)


def megabytes(size: int) -> str:
    return f"{size / 1e6:.2f} MB" if size >= 1e5 else f"{size / 1e3:.2f} kB"


def field_text(fields: Iterable[Field] | None) -> str:
    """The receptive field's size, once where all axes agree; `all` for the whole image, `<=` before a bound."""
    if fields is None:
        return "?"
    fields = [field for field in fields if field.pixels > 1] or list(fields)  # a signal has a height of 1
    texts = ["all" if field.whole and field.exact else f"{'' if field.exact else '<='}{field.size}" for field in fields]
    return _axes_text(texts) or "none"


def _axes_text(texts: list[str]) -> str:
    return texts[0] if len(set(texts)) == 1 else "x".join(texts)


def _shown(geometry: Geometry, depth: int | None) -> list[Layer]:
    there = [layer for layer in geometry.layers if layer.path and not layer.is_removed]
    return [layer for layer in there if depth is None or layer.level <= depth]


def _volume(layer: Layer) -> str:
    """The output's sizes without the batch; with it where a layer has made more of it, as windows do."""
    texts = [by(shape[1:] if shape[0] == 1 else shape) or "1" for shape in layer.outputs if shape is not None]
    known = len(texts) == len(layer.outputs)
    return ", ".join(texts[:1]) + (f" and {len(texts) - 1} more" if len(texts) > 1 else "") if known else "?"


def _costs(layer: Layer) -> list[str]:
    return [f"{layer.parameters:,}", short(layer.macs)]


def _sight(layer: Layer) -> list[str]:
    return [field_text(layer.fields), fit(layer)]


def fit(layer: Layer) -> str:
    """What the stride leaves out: nothing, only padding, or rows of the input."""
    if not layer.windows:
        return ""
    if layer.lost:
        return f"drops {layer.lost}"
    return f"pad {layer.unused}" if layer.unused else "exact"


def _receptive_field(geometry: Geometry) -> str:
    last = geometry.last_map
    if last is None:
        return "receptive field: there is no map; every layer is fully connected"
    text = field_text(last.fields)
    return f"receptive field: {'the whole image' if text == 'all' else f'{text} pixels'} at {last.name}, the last map"


def _strides(geometry: Geometry) -> str:
    kinds = Counter(fit(layer).split(" ")[0] for layer in geometry.sliding)
    text = f"strides: {kinds['exact']} exact, {kinds['pad']} leave out only padding, {kinds['drops']} drop input rows"
    lost = [f"{layer.name} ({layer.lost})" for layer in geometry.sliding if layer.lost]
    return f"{text}: {', '.join(lost)}" if lost else text


def _style(layer: Layer) -> str:
    return "yellow" if layer.lost else "" if layer.is_leaf else "bold"


def _in_file(subject: Subject, layer: Layer) -> str:
    entry = subject.exported.get(layer.name)
    return _EXPORTED.get(entry.status, "?").format(of=entry.of) if entry else "no entry"


def _says(module: object, name: str) -> bool:
    value = getattr(module, name, None)
    return value is not None and (name == "kernel_size" or _pair(value) != ("0" if name == "padding" else "1"))


def _pair(value: object) -> str:
    values = list(value) if isinstance(value, tuple | list) else [value]
    texts = [str(each) for each in values]
    return "x".join(texts) if len(set(texts)) > 1 else texts[0]


def _layer_json(subject: Subject, layer: Layer) -> dict[str, Any]:
    entry = subject.exported.get(layer.name)
    exported = {"export": manifest.LayerStatus.Name(entry.status), "export_of": entry.of} if entry else {}
    return {
        "name": layer.name,
        "path": layer.path,
        "call": layer.call,
        "kind": layer.kind,
        "window": {name: getattr(layer.module, name) for name in _SHORT if _is_plain(layer.module, name)},
        "inputs": [shape and list(shape) for shape in layer.inputs],
        "outputs": [shape and list(shape) for shape in layer.outputs],
        "parameters": layer.parameters,
        "macs": layer.macs,
        "activation_bytes": layer.memory_bytes,
        "receptive_field": None if layer.fields is None else [_field_json(field) for field in layer.fields],
        "stride": {"fit": fit(layer), "unused_rows": layer.unused, "lost_rows": layer.lost} if layer.windows else None,
        **exported,
    }


def _is_plain(module: object, name: str) -> bool:
    return hasattr(module, "kernel_size") and isinstance(getattr(module, name, None), int | str | tuple | list)


def _field_json(field: Field) -> Mapping[str, Any]:
    """Numbers that may lie between pixels, as after an interpolation, are decimal."""
    return {
        "size": field.size,
        "jump": _decimal(field.jump),
        "start": _decimal(field.start),
        "units": field.units,
        "whole": field.whole,
        "exact": field.exact,
    }


def _decimal(value: Fraction | int | None) -> float | int | None:
    if value is None:
        return None
    return int(value) if value.denominator == 1 else float(value)
