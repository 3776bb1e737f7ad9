"""A network as a table with one row per layer call, and the same as JSON data."""

from collections import Counter
from collections.abc import Iterable, Mapping
from fractions import Fraction
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from protos import manifest
from zoo.geometry.fields import ReceptiveField
from zoo.geometry.measure import Geometry, Layer
from zoo.inspect.tables import Column, build_table, print_table
from zoo.inspect.target import InspectionTarget, size_text

IMPORTANCE = (
    *("layer", "output", "parameters", "in the file", "kind"),
    *("field", "MACs", "stride", "window"),
)
EXPORT_STATUS = {
    manifest.EXACT: "exported",
    manifest.ALIAS: "same as {of}",
    manifest.FOLDED: "folded into {of}",
    manifest.NOT_EXPORTED: "not exported",
}
WINDOW_PREFIXES = {"kernel_size": "", "stride": "s", "padding": "p", "dilation": "d", "groups": "g"}


def as_table(target: InspectionTarget, geometry: Geometry, depth: int | None) -> Table:
    """Return a table with every column of the layers whose path has at most `depth` parts; None: of all layers."""
    return build_table(_columns(target, geometry, depth), _styles(target, geometry, depth))


def summary(target: InspectionTarget, geometry: Geometry) -> list[str]:
    """Return the totals, one line each."""
    lines = [
        f"{target.name}, one input of {size_text(geometry.input_size)}: {count(geometry.parameters, 'parameter')}, "
        f"{geometry.macs:,} MACs ({short(geometry.macs)})",
        f"activations (float32): {megabytes(geometry.memory_bytes)} in total, {megabytes(geometry.peak_bytes)} at peak",
        _receptive_field_line(geometry),
        _strides_line(geometry),
    ]
    added = _file_layers_to(target, geometry, depth=None)
    if added:
        lines.append(f"last in the table: {count(len(added), 'layer')} that the export made of several, as of branches")
    if geometry.unknown:
        unknown = ", ".join(f"{operation} ({times})" for operation, times in geometry.unknown.items())
        lines.append(f"unknown operations, after which sizes and fields are unknown too: {unknown}")
    return lines


def show(target: InspectionTarget, geometry: Geometry, depth: int | None) -> None:
    """Print the table, unless `depth` is 0, and the totals."""
    if depth != 0:
        print_table(_columns(target, geometry, depth), IMPORTANCE, _styles(target, geometry, depth))
    for line in summary(target, geometry):
        Console().print(Text(line), soft_wrap=True)


def as_json(target: InspectionTarget, geometry: Geometry, depth: int | None) -> dict[str, Any]:
    """Return the table's and the totals' data; tensor shapes have the batch (1) first."""
    return {
        "network": target.name,
        "architecture": target.architecture,
        "input_size": list(geometry.input_size),
        "parameters": geometry.parameters,
        "macs": geometry.macs,
        "activation_bytes": geometry.memory_bytes,
        "peak_activation_bytes": geometry.peak_bytes,
        "unknown_operations": dict(geometry.unknown),
        "layers": [
            *(_layer_json(target, layer) for layer in _layers_to(target, geometry, depth)),
            *map(_file_layer_json, _file_layers_to(target, geometry, depth)),
        ],
    }


def window(module: object) -> str:
    """Return a module's kernel size, with its stride, padding, dilation and groups unless they are the default."""
    if not hasattr(module, "kernel_size"):
        return ""
    non_default = {name: getattr(module, name) for name in WINDOW_PREFIXES if _is_set(module, name)}
    return " ".join(f"{WINDOW_PREFIXES[name]}{_per_axis(value)}" for name, value in non_default.items())


def count(number: int, noun: str) -> str:
    """Return a number and its noun: 1 network, 2 networks."""
    return f"{number:,} {noun}{'s' * (number != 1)}"


def short(number: int) -> str:
    """Return three digits and a unit: 1.81 G."""
    for unit, size in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if number >= size:
            return f"{number / size:.3g} {unit}" if number < 999.5 * size else f"{number / size:.0f} {unit}"
    return str(number)


def megabytes(size: int) -> str:
    return f"{size / 1e6:.2f} MB" if size >= 1e5 else f"{size / 1e3:.2f} kB"


def field_text(fields: Iterable[ReceptiveField] | None) -> str:
    """Return the receptive field's size, once if all axes agree; `all` for the whole image, `<=` before a bound."""
    if fields is None:
        return "?"
    fields = [field for field in fields if field.pixels > 1] or list(fields)  # a signal has a height of 1
    texts = [
        "all" if field.sees_whole_axis and field.exact else f"{'' if field.exact else '<='}{field.size}"
        for field in fields
    ]
    return _once_if_equal(texts) or "none"


def _once_if_equal(texts: list[str]) -> str:
    return texts[0] if len(set(texts)) == 1 else "x".join(texts)


def _layers_to(target: InspectionTarget, geometry: Geometry, depth: int | None) -> list[Layer]:
    """Return the layers inside the network whose path has at most `depth` parts.

    Removed ones are omitted, unless the layer map of an export lists them.
    """
    layers = [layer for layer in geometry.layers if layer.path]
    layers = [layer for layer in layers if not layer.is_removed or layer.name in target.exported]
    return [layer for layer in layers if depth is None or layer.level <= depth]


def _file_layers_to(target: InspectionTarget, geometry: Geometry, depth: int | None) -> list[manifest.Layer]:
    """Return the layers of an export that the network itself does not call, such as the sum of a block's branches."""
    called = {layer.name for layer in geometry.layers}
    added = [layer for name, layer in target.exported.items() if name not in called]
    return [layer for layer in added if depth is None or layer.path.count(".") < depth]


def _columns(target: InspectionTarget, geometry: Geometry, depth: int | None) -> list[Column]:
    layers, added = _layers_to(target, geometry, depth), _file_layers_to(target, geometry, depth)
    unknown = [""] * len(added)
    columns = [
        Column("layer", [*(layer.name for layer in layers), *(layer.name for layer in added)]),
        Column("kind", [*(layer.kind for layer in layers), *(layer.kind for layer in added)]),
        Column("window", [*(window(layer.module) for layer in layers), *unknown]),
        Column("output", [*map(_output_size, layers), *(size_text(layer.shape[1:]) for layer in added)]),
        Column("parameters", [*(f"{layer.parameters:,}" for layer in layers), *unknown], "right"),
        Column("MACs", [*(short(layer.macs) for layer in layers), *unknown], "right"),
        Column("field", [*(field_text(layer.fields) for layer in layers), *unknown], "right"),
        Column("stride", [*map(fit, layers), *unknown]),
    ]
    if target.exported:
        statuses = [*(_export_status(target.exported.get(layer.name)) for layer in layers), *map(_export_status, added)]
        columns.append(Column("in the file", statuses))
    return columns


def _styles(target: InspectionTarget, geometry: Geometry, depth: int | None) -> list[str]:
    layers, added = _layers_to(target, geometry, depth), _file_layers_to(target, geometry, depth)
    return [*("yellow" if layer.lost else "" if layer.is_leaf else "bold" for layer in layers), *("" for _ in added)]


def _output_size(layer: Layer) -> str:
    """Return the first output's size; the batch is included only where the layer has changed it, as windows do."""
    shapes = [shape for shape in layer.outputs if shape is not None]
    if len(shapes) < len(layer.outputs):
        return "?"
    texts = [size_text(shape[1:] if shape[0] == 1 else shape) or "1" for shape in shapes]
    return f"{texts[0]} and {len(texts) - 1} more" if len(texts) > 1 else "".join(texts)


def fit(layer: Layer) -> str:
    """Return whether the stride is exact, skips only padding (`pad N`), or drops rows of the input (`drops N`)."""
    if not layer.windows:
        return ""
    if layer.lost:
        return f"drops {layer.lost}"
    return f"pad {layer.unused}" if layer.unused else "exact"


def _receptive_field_line(geometry: Geometry) -> str:
    last = geometry.last_map
    if last is None:
        return "receptive field: there is no feature map; every layer is fully connected"
    text = field_text(last.fields)
    size = "the whole image" if text == "all" else f"{text} pixels"
    return f"receptive field: {size} at {last.name}, the last feature map"


def _strides_line(geometry: Geometry) -> str:
    kinds = Counter(fit(layer).split(" ")[0] for layer in geometry.sliding)
    text = f"strides: {kinds['exact']} exact, {kinds['pad']} skip only padding, {kinds['drops']} drop input rows"
    dropping = [f"{layer.name} ({layer.lost})" for layer in geometry.sliding if layer.lost]
    return f"{text}: {', '.join(dropping)}" if dropping else text


def _export_status(entry: manifest.Layer | None) -> str:
    return EXPORT_STATUS.get(entry.status, "?").format(of=entry.of) if entry else "no entry"


def _is_set(module: object, name: str) -> bool:
    """Whether a module has a kernel size, a padding other than 0, or another attribute of a window other than 1."""
    value = getattr(module, name, None)
    default = "0" if name == "padding" else "1"
    return value is not None and (name == "kernel_size" or _per_axis(value) != default)


def _per_axis(value: object) -> str:
    return _once_if_equal([str(number) for number in (value if isinstance(value, tuple | list) else [value])])


def _layer_json(target: InspectionTarget, layer: Layer) -> dict[str, Any]:
    entry = target.exported.get(layer.name)
    exported = {"export": manifest.LayerStatus.Name(entry.status), "export_of": entry.of} if entry else {}
    return {
        "name": layer.name,
        "path": layer.path,
        "call": layer.call,
        "kind": layer.kind,
        "window": _window_json(layer.module),
        "inputs": [shape and list(shape) for shape in layer.inputs],
        "outputs": [shape and list(shape) for shape in layer.outputs],
        "parameters": layer.parameters,
        "macs": layer.macs,
        "activation_bytes": layer.memory_bytes,
        "receptive_field": None if layer.fields is None else [_field_json(field) for field in layer.fields],
        "stride": {"fit": fit(layer), "unused_rows": layer.unused, "lost_rows": layer.lost} if layer.windows else None,
        **exported,
    }


def _file_layer_json(layer: manifest.Layer) -> dict[str, Any]:
    """Return the data of a layer that only the file has; what the network's graph would tell is null."""
    graph = ("parameters", "macs", "activation_bytes", "receptive_field", "stride")
    return {
        "name": layer.name,
        "path": layer.path,
        "call": 0,
        "kind": layer.kind,
        "window": {},
        "inputs": [],
        "outputs": [[1, *layer.shape[1:]]],
        **dict.fromkeys(graph),
        "export": manifest.LayerStatus.Name(layer.status),
        "export_of": layer.of,
    }


def _window_json(module: object) -> dict[str, Any]:
    if not hasattr(module, "kernel_size"):
        return {}
    values = {name: getattr(module, name, None) for name in WINDOW_PREFIXES}
    return {name: value for name, value in values.items() if isinstance(value, int | str | tuple | list)}


def _field_json(field: ReceptiveField) -> Mapping[str, Any]:
    """Return a field's numbers; those between pixels, as after an interpolation, become floats."""
    return {
        "size": field.size,
        "jump": _decimal(field.jump),
        "start": _decimal(field.start),
        "units": field.units,
        "whole": field.sees_whole_axis,
        "exact": field.exact,
    }


def _decimal(value: Fraction | int | None) -> float | int | None:
    if value is None:
        return None
    return int(value) if value.denominator == 1 else float(value)
