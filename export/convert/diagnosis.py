"""Explains why torch.onnx could not convert a network: the operation, its module, and the line of user code.

Only used after a failure: the network is captured once more, with the running module tracked.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from export.convert.branch_locations import branch_locations, fixed
from export.convert.capture import Axes, Capture
from export.tracing.source_lines import causes, failing_line, last_user_line, location
from export.tracing.trace import module_tracker

OPERATION = re.compile(r"torch\.ops\.(\w+\.\w+)")
FRAME = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+), in \w+\n\s*(?P<code>[^\n]*)')
FIXED_SIZE = re.compile(
    r"marked (?P<axis>\w+) as dynamic but your code specialized it to be a constant \((?P<size>\d+)\)"
)
MAX_MESSAGE = 300  # characters of a PyTorch message that are quoted


def explain(capture: Capture, axes: Axes, error: BaseException) -> str:
    """Return a clause that names the cause, its location, and a remedy if one is known."""
    with module_tracker(capture.network) as current_path:
        try:
            program = capture.export(axes)
        except Exception as capture_error:  # noqa: BLE001 - any error of the capture is the explanation
            if match := FIXED_SIZE.search(str(capture_error)):
                return _fixed_size(match, branch_locations(capture, axes))
            return _reason(capture_error, location(current_path(), failing_line(capture_error)))
    return _untranslated_operation(program, error) or _message(list(causes(error))[-1])


def _fixed_size(match: re.Match[str], locations: Mapping[str, str]) -> str:
    axis, size = match["axis"], match["size"]
    return (
        f"its forward fixes the {axis} to {size}{locations.get(fixed(size), '')}, as len(), int() and a loop over an "
        f"axis do, but the {axis} must be dynamic: use x.shape and operations on the whole tensor"
    )


def _reason(capture_error: BaseException, where: str) -> str:
    if "data-dependent" in str(capture_error):
        return (
            f"its forward reads values of its input to decide what to compute{where}; a graph is the same for all "
            "inputs: compute both results and choose with torch.where, or make the number a constant"
        )
    return f"{_message(list(causes(capture_error))[-1])}{where}"


def _untranslated_operation(program: Any, error: BaseException) -> str:
    """Name the operation that torch.onnx cannot translate, and locate it in the captured program."""
    matches = [match for cause in causes(error) if (match := OPERATION.search(str(cause)))]
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


def _message(error: BaseException) -> str:
    return (" ".join(str(error).split()) or type(error).__name__)[:MAX_MESSAGE]
