"""Converts to onnxruntime's own format, for its minimal builds on devices.

Requires: an exported model.
Ensures: a `.ort` file, the list of operators that a minimal build needs for it, and the result of onnxruntime's own
checker for NNAPI and Core ML; none contains a path of this machine. The bytes of the `.ort` file differ between runs.
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
            with _silence_tools():
                convert_onnx_models_to_ort(
                    source, output_dir=out, optimization_styles=[OptimizationStyle.Fixed], enable_type_reduction=True
                )
        except Exception as error:
            raise VariantError(f"ort: onnxruntime cannot convert the model: {error}".replace(folder, "")) from error
        files = {
            MODEL: next(out.glob("*.ort")).read_bytes(),
            OPERATORS: _without_comments(next(out.glob("*.config")).read_text()),
            USABILITY: usability(source).replace(folder, "").replace("/model.onnx", "model.onnx").encode(),
        }
    _require_no_path(files, folder)
    return files


def usability(path: Path) -> str:
    """Return the report of onnxruntime's checker on support by the accelerators of phones."""
    from onnxruntime.tools.mobile_helpers.usability_checker import analyze_model

    output = io.StringIO()
    logger = logging.Logger("usability")  # separate from the loggers of the process
    logger.addHandler(logging.StreamHandler(output))
    with contextlib.redirect_stdout(io.StringIO()):
        analyze_model(path, skip_optimize=False, logger=logger)
    return output.getvalue()


@contextlib.contextmanager
def _silence_tools() -> Iterator[None]:
    """Suppress the tools' output and logs, which contain temporary paths."""
    before = logging.root.manager.disable
    logging.disable(logging.INFO)
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)  # they do not close their files
            yield
    finally:
        logging.disable(before)


def _without_comments(text: str) -> bytes:
    """Remove the comments, which contain the path of the source."""
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return "".join(f"{line}\n" for line in lines).encode()


def _require_no_path(files: dict[str, bytes], folder: str) -> None:
    for name, content in files.items():
        if folder.encode() in content:
            raise VariantError(f"ort: {name} contains a path of this machine.")
