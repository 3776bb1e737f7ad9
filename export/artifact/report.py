"""The page of an export: what was checked, layer by layer, how long it took, on which machine.

Written under reports/NAME/VERSION beside the repository: what depends on the machine and the day belongs there, outside
every hash.
"""

import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from pathlib import Path

import onnx
import onnxruntime
import torch

from export.errors import TargetError
from export.interface.interface import TELLING
from protos import manifest
from zoo.storage.atomic_io import write_file

PAGE = "export.md"
SHOWN = 20  # values by name where something is missing
FREE = ("N", "free")  # the batch, and what else the input decides
HOPELESS = (
    "there even PyTorch's float32 is too far from its float64 to compare with, as behind a norm over a flat image"
)
TERMS = """\
`act@1` is the second call of `act`, `split:1` the second tensor that `split` gives. Exact: the file holds it, under its
name or the one that is told. Alias: that layer gives the same tensor. Folded: computed as part of that layer. Sees: the
pixels of the input that one unit depends on. Witnesses: PyTorch's meta device, arithmetic of our own (geometry), ONNX's
and onnxruntime's (symbolic) inferences, and what onnxruntime computes (runtime)."""


def report_folder(models: Path, name: str, version: int) -> Path:
    """Where the reports on a version stand."""
    return models.resolve().parent / "reports" / name / str(version)


def write_report(models: Path, version: int, promise: manifest.Manifest, seconds: Mapping[str, float]) -> Path:
    """Write the page and return its path. Raises: TargetError; the version itself then stands."""
    path = report_folder(models, promise.name, version) / PAGE
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_file(path, page(version, promise, seconds).encode())
    except OSError as error:
        raise TargetError(
            f"version {version} of {promise.name} was checked and written, but not its report: cannot write {path}: "
            f"{error.strerror or error}."
        ) from error
    return path


def page(version: int, promise: manifest.Manifest, seconds: Mapping[str, float]) -> str:
    """The page for people, as Markdown."""
    sections = [
        f"# {promise.name}, version {version}\n\nEvery check held.\n",
        f"## Outputs\n\n{_outputs(promise)}",
        f"## Shapes\n\n{_shapes(promise.shapes)}",
        f"## Layers\n\n{_layers(promise.layer_map.layers)}",
        f"## Seconds\n\n{table(('step', 'seconds'), [(step, f'{each:.2f}') for step, each in seconds.items()])}",
        _environment(promise),
    ]
    return "\n".join(sections)


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table; ends with a line break."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(str(cell).replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)


def _outputs(promise: manifest.Manifest) -> str:
    rows = [
        (check.output, _batch(check), *_numbers(check.max_abs_error, check.tolerance, check.reference_error))
        for check in promise.parity.checks
    ]
    head = ("output", "batch", "largest difference", "allowed", "float32's own error")
    inputs = list(promise.parity.inputs)
    replaced = [kind for kind, used in zip(TELLING, inputs, strict=True) if used != kind]
    instead = f" Not on {', '.join(replaced)}: {HOPELESS}." if replaced else ""
    return (
        f"Compared with PyTorch on {', '.join(inputs)}; a smaller batch is the first of them.{instead}\n\n"
        f"{table(head, rows)}"
    )


def _batch(check: manifest.ParityCheck) -> str:
    return f"{check.batch} of {check.height} x {check.width}" if check.height else str(check.batch)


def _shapes(found: manifest.Shapes) -> str:
    rows = [(each.name, each.values, each.silent_because or "") for each in found.witnesses]
    fewer = ", ".join(f"`{name}`" for name in found.unverified[:SHOWN])
    more = f" and {len(found.unverified) - SHOWN} more" if len(found.unverified) > SHOWN else ""
    modules = f"{found.module_outputs_verified} of {found.module_outputs} module outputs"
    others = f"{found.other_values_verified} of {found.other_values} other values"
    return (
        f"Verified: {modules}, by PyTorch's meta device, the runtime and one more witness; {others}, "
        f"by the runtime at two batch sizes and one more. No two witnesses disagree.\n\n"
        + (f"Not verified, for lack of witnesses: {fewer}{more}.\n\n" if fewer else "")
        + table(("witness", "shapes that it knows whole", "silent because"), rows)
    )


def _layers(layers: Sequence[manifest.Layer]) -> str:
    head = ("layer", "kind", "in the file", "shape", "sees", "largest difference", "allowed", "shape witnesses")
    return f"{TERMS}\n\n{table(head, [_row(layer) for layer in layers])}"


def _row(layer: manifest.Layer) -> Sequence[object]:
    where = manifest.LayerStatus.Name(layer.status).lower().replace("_", " ")
    told = layer.of or layer.reason or _other_name(layer)
    numbers = _numbers(layer.max_abs_error, layer.tolerance) if layer.value else ("", "")
    shape = " x ".join(FREE[axis > 0] if size == -1 else str(size) for axis, size in enumerate(layer.shape))
    sees = " x ".join(f"{field.size:g}{'' if field.exact else ' at most'}" for field in layer.fields)
    witnesses = ", ".join(layer.shape_witnesses)
    return (layer.name, layer.kind, f"{where}: {told}" if told else where, shape, sees, *numbers, witnesses)


def _other_name(layer: manifest.Layer) -> str:
    return f"as `{layer.value}`" if layer.status == manifest.EXACT and layer.value != layer.name else ""


def _numbers(*values: float) -> tuple[str, ...]:
    return tuple(f"{value:.1e}" for value in values)


def _environment(promise: manifest.Manifest) -> str:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return (
        f"Exported on {date.today()} by zoonnx {promise.zoonnx_version}: Python {platform.python_version()}, "
        f"torch {torch.__version__}, onnx {onnx.__version__}, onnxruntime {onnxruntime.__version__}, "
        f"{cores} cores of {platform.machine()}; opset {promise.format.opset}.\n"
    )
