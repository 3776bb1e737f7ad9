"""Checks the outputs for the test data against PyTorch's, within a plausible tolerance."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from export.arrays import Array
from export.check.artifact import Artifact, read_regular_file
from export.check.results import CheckResult, Failure
from export.errors import ConversionError, DamagedError
from export.names import TEST_DATA
from export.onnx_model.runtime import Runtime
from export.reference.tolerance import CEILING, VARIANT_FLOOR, VARIANT_MULTIPLE
from protos.files import MANIFEST
from protos.manifest import Manifest, ParityCheck

FOREIGN_RTOL, FOREIGN_ATOL = 1e-3, 1e-5  # for models without a manifest: the tolerance of ONNX's own backend tests
NON_NUMERIC_KINDS = {"O", "S", "U"}  # NumPy's kinds of arrays that do not hold numbers
ROUNDING = 1.01  # the manifest records three digits
MAX_CPU_RATIO = 100.0  # of the errors of a variant on two processors
NamedArray = tuple[str, Array]


def check_test_data(artifact: Artifact) -> CheckResult:
    """Run the model on its test data, optimised as in a server, and compare the outputs."""
    check = "test data"
    feeds = dict(read_test_data(artifact.folder, "input").values())
    if not feeds and not artifact.manifest:
        return CheckResult.not_run(check, f"there is no {TEST_DATA}")
    expected = read_test_data(artifact.folder, "output")
    messages = list(_missing_tensors(artifact, feeds, [name for name, _ in expected.values()]))
    messages += _outside_limits(artifact, feeds)
    if messages:
        failures = [Failure(str(artifact.folder / TEST_DATA), message) for message in messages]
        return CheckResult.from_failures(check, "the tensors in the test data", failures)
    try:
        actual = Runtime(artifact.model, weights=artifact.folder).run(feeds)
    except ConversionError as error:
        failure = Failure(str(artifact.model_path), str(error))
        return CheckResult.from_failures(check, "outputs in onnxruntime", [failure])
    failures = [
        failure
        for path, (name, array) in expected.items()
        for failure in _output_failures(artifact, path, name, array, actual.get(name))
    ]
    tolerance = "the recorded tolerance" if artifact.manifest else f"a relative tolerance of {FOREIGN_RTOL:g}"
    return CheckResult.from_failures(check, f"{len(expected)} outputs, within {tolerance}", failures)


def read_test_data(version: Path, kind: str) -> dict[Path, NamedArray]:
    """Return the tensors of `kind`, "input" or "output", with their names, by file. Raises: DamagedError."""
    paths = sorted((version / TEST_DATA).glob(f"{kind}*.pb"))
    return {path: _read_tensor(path) for path in paths}


def _missing_tensors(artifact: Artifact, inputs: Mapping[str, Array], outputs: list[str]) -> Iterator[str]:
    """Check that the test data of an exported model holds every input and every output once."""
    if not artifact.manifest:
        return
    for kind, actual, declared in (
        ("input", list(inputs), artifact.manifest.inputs),
        ("output", outputs, artifact.manifest.outputs),
    ):
        expected = [tensor.name for tensor in declared]
        if sorted(actual) != sorted(expected):
            yield f"expected the {kind}s {', '.join(expected)}, once each, got {', '.join(actual) or 'none'}"


def _outside_limits(artifact: Artifact, inputs: Mapping[str, Array]) -> Iterator[str]:
    """Check that the inputs are within the limits that the manifest declares for them."""
    for tensor in artifact.manifest.inputs if artifact.manifest else ():
        low, high, values = tensor.limits.low, tensor.limits.high, inputs.get(tensor.name)
        if tensor.HasField("limits") and values is not None and not np.all((low <= values) & (values <= high)):
            yield f"the input '{tensor.name}' has values outside its limits, {low:g} to {high:g} ({MANIFEST})"


def _read_tensor(path: Path) -> NamedArray:
    """Return the name and the content of a tensor. Raises: DamagedError."""
    try:
        tensor = onnx.TensorProto.FromString(read_regular_file(path))
        return tensor.name, numpy_helper.to_array(tensor)
    except OSError:
        raise
    except Exception as error:
        raise DamagedError(path, f"cannot be read as a tensor: {error}") from error


def _output_failures(
    artifact: Artifact, path: Path, name: str, expected: Array, actual: Array | None
) -> Iterator[Failure]:
    if actual is None or actual.shape != expected.shape:
        actual_shape = "no such output" if actual is None else str(list(actual.shape))
        yield Failure(str(path), f"output '{name}': expected shape {list(expected.shape)}, got {actual_shape}")
    elif NON_NUMERIC_KINDS & {expected.dtype.kind, actual.dtype.kind}:
        if not np.array_equal(actual, expected):
            yield Failure(str(path), f"output '{name}' of the model differs from this file")
    elif artifact.manifest is None:
        tolerance = FOREIGN_ATOL + FOREIGN_RTOL * np.abs(expected)
        yield from _large_errors(path, name, _abs_errors(actual, expected), tolerance)
    else:
        yield from _parity_failures(artifact, artifact.manifest, path, name, expected, actual)


def _parity_failures(
    artifact: Artifact, manifest: Manifest, path: Path, name: str, expected: Array, actual: Array
) -> Iterator[Failure]:
    """Compare an output with its recorded tolerance, and this tolerance with the largest plausible one."""
    errors, file = _abs_errors(actual, expected), str(artifact.folder / MANIFEST)
    batch = expected.shape[0] if expected.ndim else 0
    check = _parity_check(manifest, name, batch)
    if check is None:
        yield Failure(file, f"has no parity check of '{name}' at batch {batch}")
        return
    yield from _large_errors(path, name, errors, np.float64(check.tolerance))
    limit = _largest_tolerance(check, manifest, expected, errors)
    if not check.tolerance <= limit:
        yield Failure(file, f"records a tolerance of {check.tolerance:.3g} for '{name}'; an export allows {limit:.3g}")


def _abs_errors(actual: Array, expected: Array) -> Array:
    """Return the absolute differences: 0 if both are the same infinity or both NaN, infinite if only one is."""
    left, right = actual.astype(np.float64), expected.astype(np.float64)
    same = (left == right) | (np.isnan(left) & np.isnan(right))
    with np.errstate(invalid="ignore"):
        return np.where(same, 0.0, np.nan_to_num(np.abs(left - right), nan=np.inf, posinf=np.inf))


def _large_errors(path: Path, name: str, errors: Array, tolerance: Any) -> Iterator[Failure]:
    if not np.all(errors <= tolerance):
        largest, limit = float(np.max(errors)), float(np.max(tolerance))
        yield Failure(
            str(path), f"output '{name}' of the model differs from this file by {largest:.3g} (tolerance {limit:.3g})"
        )


def _parity_check(manifest: Manifest, output: str, batch: int) -> ParityCheck | None:
    """Return the first parity check of an output and batch size, which is at the network's own input size."""
    return next((check for check in manifest.parity.checks if (check.output, check.batch) == (output, batch)), None)


def _largest_tolerance(check: ParityCheck, manifest: Manifest, expected: Array, errors: Array) -> float:
    """Return the largest tolerance that an export can record for an output.

    The tolerance of a variant is derived from its error on the exporting machine, which must be close to its error
    here.
    """
    if not manifest.HasField("variant"):
        finite = np.abs(expected[np.isfinite(expected)].astype(np.float64))
        return ROUNDING * CEILING * float(np.max(finite, initial=0.0))
    error_here = MAX_CPU_RATIO * max(float(np.max(errors, initial=0.0)), VARIANT_FLOOR)
    return max(ROUNDING * VARIANT_MULTIPLE * min(check.max_abs_error, error_here), VARIANT_FLOOR)
