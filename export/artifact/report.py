"""The report of an export: the results of all checks by layer, the time of each step, and the machine.

Written to `report_folder`, beside the repository, and covered by no hash, because it depends on machine and date.
"""

import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from pathlib import Path

import onnx
import onnxruntime
import torch

from export.artifact.beside import report_folder
from export.errors import TargetError
from export.interface.interface import PROBE_KINDS
from protos.manifest import EXACT, Cast, Layer, LayerStatus, Manifest, ParityCheck, Shapes
from zoo.storage.atomic_io import write_file

REPORT = "export.md"
MAX_UNVERIFIED_NAMES = 20
BATCH_SIZE, DYNAMIC_SIZE = "N", "dynamic"  # text for a dynamic size of the first axis, and of any other
UNRELIABLE = "PyTorch's float32 and float64 results differ too much on them, as after a norm over a constant image"
TERMS = """\
- `act@1`: the output of the second call of `act`; `split:1`: the second tensor that `split` returns.
- exact: the ONNX file contains this output, under its own name or the name shown.
- alias: the layer passes on the output of the layer shown.
- folded: the exporter merged the layer into the layer shown.
- receptive field: the input pixels that one unit depends on.
- max difference: between onnxruntime and PyTorch. Tolerance: the largest difference that is accepted.
- shape witnesses: independent sources of the output's shape, which all agree. `pytorch`: PyTorch's meta device.
  `geometry`: zoonnx's own arithmetic. `onnx`, `symbolic`: shape inference by ONNX and by onnxruntime. `runtime`: the
  shapes that onnxruntime computes."""


def write_report(models: Path, version: int, manifest: Manifest, seconds: Mapping[str, float]) -> Path:
    """Write the report and return its path. Raises: TargetError; the version itself is already written then."""
    path = report_folder(models, manifest.name, version) / REPORT
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_file(path, report_text(version, manifest, seconds).encode())
    except OSError as error:
        raise TargetError(
            f"version {version} of {manifest.name} was checked and written, but its report was not: cannot write "
            f"{path}: {error.strerror or error}."
        ) from error
    return path


def report_text(version: int, manifest: Manifest, seconds: Mapping[str, float]) -> str:
    """Return the report as Markdown."""
    timing = table(("step", "seconds"), [(step, f"{duration:.2f}") for step, duration in seconds.items()])
    sections = [
        f"# {manifest.name}, version {version}\n\nAll checks passed.\n",
        f"## Outputs\n\n{_outputs(manifest)}",
        f"## Shapes\n\n{_shapes(manifest.shapes)}",
        f"## Layers\n\n{_layers(manifest.layer_map.layers)}",
        f"## Time\n\n{timing}",
        _environment(manifest),
    ]
    return "\n".join(sections)


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a Markdown table that ends with a line break."""
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(str(cell).replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)


def _outputs(manifest: Manifest) -> str:
    rows = [
        (check.output, _batch(check), *_scientific(check.max_abs_error, check.tolerance, check.reference_error))
        for check in manifest.parity.checks
    ]
    header = ("output", "batch", "max difference", "tolerance", "PyTorch's float32 error")
    inputs = list(manifest.parity.inputs)
    skipped = [kind for kind, used in zip(PROBE_KINDS, inputs, strict=True) if used != kind]
    note = f" Skipped: {', '.join(skipped)}; {UNRELIABLE}." if skipped else ""
    return (
        f"{_cast(manifest)}Compared with PyTorch on {len(inputs)} inputs: {', '.join(inputs)}. A smaller batch takes "
        f"the first of them.{note}\n\n{table(header, rows)}\n{_limits(manifest)}{_extremes(manifest)}"
    )


def cast_effect(cast: Cast) -> str:
    """Return how much the cast to float32 changed the outputs, as a clause."""
    if cast.failure:
        return f"with a difference that could not be measured: {cast.failure}"
    differences = (
        f"{difference.output} by at most {difference.max_abs_difference:.1e} (its largest value is "
        f"{difference.magnitude:.1e})"
        for difference in cast.differences
    )
    return f"which changes {', '.join(differences)}"


def _cast(manifest: Manifest) -> str:
    cast = manifest.parity.cast
    if not cast.dtype:
        return ""
    return (
        f"The network was passed in {cast.dtype} and cast to float32, {cast_effect(cast)}. Everything below is "
        "compared with the network in float32.\n\n"
    )


def _limits(manifest: Manifest) -> str:
    """Return the values of each input with which a raw model was compared, if they have limits."""
    limited = [tensor for tensor in manifest.inputs if tensor.HasField("limits")]
    if not limited:
        return ""
    limits = "; ".join(f"`{tensor.name}` from {tensor.limits.low:g} to {tensor.limits.high:g}" for tensor in limited)
    return (
        f"Values of the inputs: {limits}. In the probe of zeros, an integer or boolean input is noise, and one "
        "whose limits exclude 0 has the value nearest to it.\n\n"
    )


def _extremes(manifest: Manifest) -> str:
    """Return the comparison at the ends of the input's range; where float32 is unreliable, with both errors."""
    rows = [
        (
            check.output,
            check.input,
            *_scientific(check.max_abs_error, check.tolerance),
            *(_scientific(check.reference_error) if check.reference_error else ["not needed"]),
            "float32 is unreliable: only finite values are required" if check.unreliable else "",
        )
        for check in manifest.parity.extremes
    ]
    head = ("output", "input", "max difference", "tolerance", "error of PyTorch's float32", "note")
    network = "the network in float32" if manifest.parity.cast.dtype else "the network as it was passed"
    return (
        f"At the ends of the input's range, compared with {network}. The error of float32 itself is measured only "
        f"where the difference is larger than the tolerance of the other inputs.\n\n{table(head, rows)}"
    )


def _batch(check: ParityCheck) -> str:
    return f"{check.batch} of {check.height} x {check.width}" if check.height else str(check.batch)


def _shapes(shapes: Shapes) -> str:
    rows = [(witness.name, witness.values, witness.silent_because or "") for witness in shapes.witnesses]
    names = ", ".join(f"`{name}`" for name in shapes.unverified[:MAX_UNVERIFIED_NAMES])
    hidden = len(shapes.unverified) - MAX_UNVERIFIED_NAMES
    more = f" and {hidden} more" if hidden > 0 else ""
    return (
        f"Verified: {shapes.module_outputs_verified} of {shapes.module_outputs} module outputs (by PyTorch's meta "
        f"device, onnxruntime and at least one more witness); {shapes.other_values_verified} of {shapes.other_values} "
        "other values (by onnxruntime at two batch sizes and at least one more witness). No two witnesses disagree.\n\n"
        + (f"Not verified, because too few witnesses report a complete shape: {names}{more}.\n\n" if names else "")
        + table(("witness", "complete shapes", "reason for missing ones"), rows)
    )


def _layers(layers: Sequence[Layer]) -> str:
    header = (
        "layer",
        "type",
        "in the ONNX file",
        "shape",
        "receptive field",
        "max difference",
        "tolerance",
        "shape witnesses",
    )
    return f"{TERMS}\n\n{table(header, [_layer_row(layer) for layer in layers])}"


def _layer_row(layer: Layer) -> Sequence[object]:
    status = LayerStatus.Name(layer.status).lower().replace("_", " ")
    details = layer.of or layer.reason or _other_name(layer)
    errors = _scientific(layer.max_abs_error, layer.tolerance) if layer.value else ("", "")
    shape = " x ".join(_size(axis, size) for axis, size in enumerate(layer.shape))
    field = " x ".join(f"{field.size:g}" if field.exact else f"at most {field.size:g}" for field in layer.fields)
    witnesses = ", ".join(layer.shape_witnesses)
    return (layer.name, layer.kind, f"{status}: {details}" if details else status, shape, field, *errors, witnesses)


def _size(axis: int, size: int) -> str:
    if size >= 0:
        return str(size)
    return DYNAMIC_SIZE if axis else BATCH_SIZE


def _other_name(layer: Layer) -> str:
    return f"as `{layer.value}`" if layer.status == EXACT and layer.value != layer.name else ""


def _scientific(*values: float) -> tuple[str, ...]:
    return tuple(f"{value:.1e}" for value in values)


def _environment(manifest: Manifest) -> str:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return (
        f"Exported on {date.today()} by zoonnx {manifest.zoonnx_version}: Python {platform.python_version()}, "
        f"torch {torch.__version__}, onnx {onnx.__version__}, onnxruntime {onnxruntime.__version__}, "
        f"{cores} cores of {platform.machine()}; opset {manifest.format.opset}.\n"
    )
