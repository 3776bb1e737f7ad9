"""Why torch.onnx could not convert a network: which operation, in which module, at which line of whose code.

Asked only after a failure: the network is captured once more, this time watched.
"""

import re
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from export.tracing.trace import inside

OPERATION = re.compile(r"torch\.ops\.(\w+\.\w+)")
FRAME = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+), in \w+\n\s*(?P<code>[^\n]*)')
LIBRARY = f"{Path(torch.__file__).parent}/"


def explain(network: nn.Module, example: torch.Tensor, dynamic_shapes: Any, error: BaseException) -> str:
    """Return one clause that names what stands in the way, where it stands, and what to do if that is known."""
    with inside(network) as where:
        try:
            program = torch.export.export(network, (example,), dynamic_shapes=dynamic_shapes, strict=False)
        except Exception as capture:  # noqa: BLE001 - whatever it is, it is the reason asked for
            return f"{_reason(capture)}{place(where(), _line_of(capture))}"
    return _unsupported(program, error) or _words(list(_causes(error))[-1])


def _reason(capture: BaseException) -> str:
    words = _words(list(_causes(capture))[-1])
    if "data-dependent" in str(capture):
        return "its forward decides by the values it is given, which a graph cannot: use torch.where"
    return words


def _unsupported(program: Any, error: BaseException) -> str:
    """Name the operation that has no translation, and find it in the captured program."""
    found = [match for cause in _causes(error) if (match := OPERATION.search(str(cause)))]
    if not found:
        return ""
    operation = found[-1][1]
    place = next(_places(program, operation), "") or next(_places(_taken_apart(program), operation), "")
    return f"ONNX has no translation of {operation}{place}"


def _places(program: Any, operation: str) -> Iterator[str]:
    for node in program.graph.nodes if program else ():
        if operation.partition(".")[2] in str(node.target):
            paths = [path for path, _ in node.meta.get("nn_module_stack", {}).values()]
            yield place(paths[-1] if paths else "", last_own(FRAME.findall(node.meta.get("stack_trace") or "")))


def _taken_apart(program: Any) -> Any:
    """The program in the smaller operations that torch.onnx translates, None where that fails."""
    try:
        return program.run_decompositions()
    except Exception:  # noqa: BLE001 - only the place of the operation stays unknown
        return None


def place(path: str, line: str) -> str:
    module = f" in module '{path}'" if path else ""
    return f"{module} at {line}" if line else module


def _line_of(error: BaseException) -> str:
    """The last line of the network's own code that was running when `error` was raised."""
    frames = [frame for cause in _causes(error) for frame in traceback.extract_tb(cause.__traceback__)]
    here = Path(__file__).parents[1]  # the export package
    return last_own(
        [(f.filename, str(f.lineno), f.line or "") for f in frames if not Path(f.filename).is_relative_to(here)]
    )


def last_own(frames: list[tuple[str, str, str]]) -> str:
    """The last of the frames that is not PyTorch's, as `file.py:LINE: code`, without the folder."""
    own = [frame for frame in frames if not frame[0].startswith((LIBRARY, "<"))]
    if not own:
        return ""
    file, line, code = own[-1]
    return f"{Path(file).name}:{line}: {code.strip()}"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _words(error: BaseException) -> str:
    return (" ".join(str(error).split()) or type(error).__name__)[:300]
