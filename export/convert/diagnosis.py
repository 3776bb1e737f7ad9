"""Explains why torch.onnx could not convert a network: the operation, its module, and the line of user code.

Only used after a failure: the network is captured once more, with the running module tracked.
"""

import re
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from export.convert.capture import Axes, Capture
from export.tracing.trace import module_tracker

OPERATION = re.compile(r"torch\.ops\.(\w+\.\w+)")
FRAME = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+), in \w+\n\s*(?P<code>[^\n]*)')
TORCH_FOLDER = f"{Path(torch.__file__).parent}/"
EXPORT_FOLDER = Path(__file__).parents[1]
MAX_MESSAGE = 300  # characters of a PyTorch message that are quoted

Frame = tuple[str, str, str]  # file, line number, code


def explain(capture: Capture, axes: Axes, error: BaseException) -> str:
    """Return a clause that names the cause, its location, and a remedy if one is known."""
    with module_tracker(capture.network) as current_path:
        try:
            program = capture.export(axes)
        except Exception as capture_error:  # noqa: BLE001 - any error of the capture is the explanation
            return f"{_reason(capture_error)}{location(current_path(), _failing_line(capture_error))}"
    return _untranslated_operation(program, error) or _message(list(_causes(error))[-1])


def location(path: str, line: str) -> str:
    """Return a clause with the module path and the source line; parts that are unknown are omitted."""
    module = f" in module '{path}'" if path else ""
    return f"{module} at {line}" if line else module


def last_user_line(frames: list[Frame]) -> str:
    """Return the last frame outside of PyTorch as `file.py:LINE: code`, without the folder."""
    user_frames = [frame for frame in frames if not frame[0].startswith((TORCH_FOLDER, "<"))]
    if not user_frames:
        return ""
    file, line, code = user_frames[-1]
    return f"{Path(file).name}:{line}: {code.strip()}"


def _reason(capture_error: BaseException) -> str:
    if "data-dependent" in str(capture_error):
        return "its forward branches on the values of its input, which a graph cannot: use torch.where"
    return _message(list(_causes(capture_error))[-1])


def _untranslated_operation(program: Any, error: BaseException) -> str:
    """Name the operation that torch.onnx cannot translate, and locate it in the captured program."""
    matches = [match for cause in _causes(error) if (match := OPERATION.search(str(cause)))]
    if not matches:
        return ""
    operation = matches[-1][1]
    where = next(_locations(program, operation), "") or next(_locations(_decomposed(program), operation), "")
    return f"ONNX has no translation of {operation}{where}"


def _locations(program: Any, operation: str) -> Iterator[str]:
    for node in program.graph.nodes if program else ():
        if operation.partition(".")[2] in str(node.target):
            paths = [path for path, _ in node.meta.get("nn_module_stack", {}).values()]
            frames = FRAME.findall(node.meta.get("stack_trace") or "")
            yield location(paths[-1] if paths else "", last_user_line(frames))


def _decomposed(program: Any) -> Any:
    """Return the program in the basic operations that torch.onnx translates; None if that fails."""
    try:
        return program.run_decompositions()
    except Exception:  # noqa: BLE001 - the location of the operation then stays unknown
        return None


def _failing_line(error: BaseException) -> str:
    """Return the last line of user code that was running when `error` was raised."""
    frames = [frame for cause in _causes(error) for frame in traceback.extract_tb(cause.__traceback__)]
    outside = [frame for frame in frames if not Path(frame.filename).is_relative_to(EXPORT_FOLDER)]
    return last_user_line([(frame.filename, str(frame.lineno), frame.line or "") for frame in outside])


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _message(error: BaseException) -> str:
    return (" ".join(str(error).split()) or type(error).__name__)[:MAX_MESSAGE]
