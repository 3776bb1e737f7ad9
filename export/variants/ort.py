"""onnxruntime's own format, for its small builds on devices.

Requires: an exported model.
Ensures: a `.ort` file, the list of the operators that a small build needs for it, and what onnxruntime's own checker
says of the model on NNAPI and Core ML; no path of this machine in any of them. The `.ort` bytes differ between runs.
"""

import contextlib
import io
import logging
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import onnx

from export.errors import VariantError

MODEL, OPERATORS, USABILITY = "model.ort", "required_operators.config", "mobile_usability.txt"


def convert(model: onnx.ModelProto) -> dict[str, bytes]:
    """Return the files by name. Raises: VariantError."""
    from onnxruntime.tools.convert_onnx_models_to_ort import OptimizationStyle, convert_onnx_models_to_ort

    with tempfile.TemporaryDirectory() as folder:
        source, out = Path(folder) / "model.onnx", Path(folder) / "out"
        onnx.save(model, source)
        try:
            with _quietly():
                convert_onnx_models_to_ort(
                    source, output_dir=out, optimization_styles=[OptimizationStyle.Fixed], enable_type_reduction=True
                )
        except Exception as error:
            raise VariantError(f"ort: onnxruntime cannot convert the model: {error}".replace(folder, "")) from error
        files = {
            MODEL: next(out.glob("*.ort")).read_bytes(),
            OPERATORS: _operators(next(out.glob("*.config")).read_text()),
            USABILITY: usability(source).replace(folder, "").replace("/model.onnx", "model.onnx").encode(),
        }
    _require_no_path(files, folder)
    return files


def usability(path: Path) -> str:
    """What onnxruntime's checker says of the model on a phone's accelerators."""
    from onnxruntime.tools.mobile_helpers.usability_checker import analyze_model

    said = io.StringIO()
    logger = logging.Logger("usability")  # not one of the process's own loggers
    logger.addHandler(logging.StreamHandler(said))
    with contextlib.redirect_stdout(io.StringIO()):
        analyze_model(path, skip_optimize=False, logger=logger)
    return said.getvalue()


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Hold back what the tools print and log: it names temporary folders."""
    before = logging.root.manager.disable
    logging.disable(logging.INFO)
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)  # they leave files for the collector to close
            yield
    finally:
        logging.disable(before)


def _operators(text: str) -> bytes:
    """The list without its comments: they hold the path of the source."""
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return "".join(f"{line}\n" for line in lines).encode()


def _require_no_path(files: dict[str, bytes], folder: str) -> None:
    for name, content in files.items():
        if folder.encode() in content:
            raise VariantError(f"ort: {name} holds a path of this machine.")
