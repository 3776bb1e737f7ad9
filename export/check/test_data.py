"""The outputs for the test data: what the file gives is what PyTorch gave, within a tolerance that is not made up."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from export.check.artifact import Subject, read_plain
from export.check.results import Fault, Finding, found
from export.errors import ConversionError, DamagedError
from export.names import MANIFEST, TEST_DATA
from export.onnx_model.runtime import Runtime
from export.reference.tolerance import CEILING, VARIANT_FLOOR, VARIANT_MULTIPLE
from protos import manifest

USUAL_RTOL, USUAL_ATOL = 1e-3, 1e-5  # what ONNX's own backend tests allow
TEXT = {"O", "S", "U"}  # NumPy's kinds of arrays that hold no numbers
DIGITS = 1.01  # the manifest holds three of them
ELSEWHERE = 100.0  # times what is measured here: no other processor is so much worse at a variant
Array = npt.NDArray[Any]
Named = tuple[str, Array]
Allowed = Callable[[Array], Any]


def check_test_data(subject: Subject) -> Finding:
    """Run the model on its test data, optimised as a server runs it, and compare the outputs."""
    name = "test data"
    feeds = dict(read_test_data(subject.folder, "input").values())
    if not feeds and not subject.promise:
        return Finding(name, "not done", f"there is no {TEST_DATA}")
    expected = read_test_data(subject.folder, "output")
    missing = list(_missing(subject, feeds, [each for each, _ in expected.values()]))
    if missing:
        return found(name, "what there is", [Fault(str(subject.folder / TEST_DATA), each) for each in missing])
    try:
        got = Runtime(subject.model, weights=subject.folder).run(feeds)
    except ConversionError as error:
        return found(name, "what onnxruntime computes", [Fault(str(subject.model_path), str(error))])
    faults = [fault for path, each in expected.items() for fault in _output_faults(subject, path, *each, got)]
    allowed = "the export's tolerance" if subject.promise else f"{USUAL_RTOL:g} of their size"
    return found(name, f"{len(expected)} outputs, within {allowed} of what is expected", faults)


def read_test_data(version: Path, kind: str) -> dict[Path, Named]:
    """The tensors of that kind, `input` or `output`, with their names, by file. Raises: DamagedError."""
    paths = sorted((version / TEST_DATA).glob(f"{kind}*.pb"))
    return {path: _read_tensor(path) for path in paths}


def _missing(subject: Subject, inputs: Mapping[str, Array], outputs: list[str]) -> Iterator[str]:
    """What our own models have: every input once, and every output."""
    if subject.promise:
        for kind, has, wanted in (
            ("input", list(inputs), subject.promise.inputs),
            ("output", outputs, subject.promise.outputs),
        ):
            if sorted(has) != sorted(each.name for each in wanted):
                names = ", ".join(f"'{each.name}'" for each in wanted)
                yield f"it should hold the {kind}s {names}, each once; it holds {', '.join(has) or 'none'}"


def _read_tensor(path: Path) -> Named:
    """A tensor by its name. Raises: DamagedError."""
    try:
        tensor = onnx.TensorProto.FromString(read_plain(path))
        return tensor.name, numpy_helper.to_array(tensor)
    except OSError:
        raise
    except Exception as error:
        raise DamagedError(path, f"it cannot be read as a tensor: {error}") from error


def _output_faults(
    subject: Subject, path: Path, name: str, expected: Array, got: Mapping[str, Array]
) -> Iterator[Fault]:
    has = got.get(name)
    if has is None or has.shape != expected.shape:
        yield Fault(str(path), f"it holds '{name}' of {list(expected.shape)}, which the model does not give")
        return
    if TEXT & {expected.dtype.kind, has.dtype.kind}:
        if not np.array_equal(has, expected):
            yield Fault(str(path), f"the model's '{name}' is not what it holds")
        return
    error = _errors(has, expected)
    if subject.promise is None:
        yield from _departure(path, name, error, USUAL_ATOL + USUAL_RTOL * np.abs(expected))
        return
    check = _check(subject.promise, name, expected.shape[0] if expected.ndim else 0)
    file = str(subject.folder / MANIFEST)
    if check is None:
        yield Fault(file, f"no parity check of '{name}' at batch {expected.shape[0] if expected.ndim else 0}")
        return
    yield from _departure(path, name, error, np.float64(check.tolerance))
    most = _most(check, subject.promise, expected, error)
    if not check.tolerance <= most:
        words = f"it allows '{name}' to depart from PyTorch by {check.tolerance:.3g}; no export allows over {most:.3g}"
        yield Fault(file, words)


def _errors(has: Array, expected: Array) -> Array:
    """How far each number is from what is expected: not at all where both are infinite alike, or no numbers."""
    left, right = has.astype(np.float64), expected.astype(np.float64)
    same = (left == right) | (np.isnan(left) & np.isnan(right))
    with np.errstate(invalid="ignore"):
        return np.where(same, 0.0, np.nan_to_num(np.abs(left - right), nan=np.inf, posinf=np.inf))


def _departure(path: Path, name: str, error: Array, allowed: Any) -> Iterator[Fault]:
    if not np.all(error <= allowed):
        worst, most = float(np.max(error)), float(np.max(allowed))
        yield Fault(str(path), f"the model's '{name}' departs from it by {worst:.3g}; allowed is {most:.3g}")


def _check(promise: manifest.Manifest, output: str, batch: int) -> manifest.ParityCheck | None:
    """The first such comparison: those at another size come later."""
    return next((each for each in promise.parity.checks if (each.output, each.batch) == (output, batch)), None)


def _most(check: manifest.ParityCheck, promise: manifest.Manifest, expected: Array, error: Array) -> float:
    """The greatest tolerance that an export may have written for that output.

    That of a variant follows from what it was found to lose, which cannot be another matter on this machine.
    """
    if not promise.HasField("variant"):
        finite = np.abs(expected[np.isfinite(expected)].astype(np.float64))
        return DIGITS * CEILING * float(np.max(finite, initial=0.0))
    here = ELSEWHERE * max(float(np.max(error, initial=0.0)), VARIANT_FLOOR)
    return max(DIGITS * VARIANT_MULTIPLE * min(check.max_abs_error, here), VARIANT_FLOOR)
