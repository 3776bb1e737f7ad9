"""Locates the line of a network's own code that is running, or that failed."""

import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

TORCH_FOLDER = f"{Path(torch.__file__).parent}/"
EXPORT_FOLDER = Path(__file__).parents[1]

Frame = tuple[str, str, str]  # file, line number, code


def location(path: str, line: str) -> str:
    """Return a clause with the module path and the source line; parts that are unknown are omitted."""
    module = f" in module '{path}'" if path else ""
    return f"{module} at {line}" if line else module


def last_user_line(frames: Sequence[Frame]) -> str:
    """Return the last frame outside of PyTorch as `file.py:LINE: code`, without the folder."""
    user_frames = [frame for frame in frames if not frame[0].startswith((TORCH_FOLDER, "<"))]
    if not user_frames:
        return ""
    file, line, code = user_frames[-1]
    return f"{Path(file).name}:{line}: {code.strip()}"


def failing_line(error: BaseException) -> str:
    """Return the last line of user code that was running when `error` was raised."""
    frames = [frame for cause in causes(error) for frame in traceback.extract_tb(cause.__traceback__)]
    outside = [frame for frame in frames if not Path(frame.filename).is_relative_to(EXPORT_FOLDER)]
    return last_user_line([(frame.filename, str(frame.lineno), frame.line or "") for frame in outside])


def current_line() -> str:
    """Return the line of user code that is running."""
    outside = [frame for frame in traceback.extract_stack() if not Path(frame.filename).is_relative_to(EXPORT_FOLDER)]
    return last_user_line([(frame.filename, str(frame.lineno), frame.line or "") for frame in outside])


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an exception and the chain of its causes."""
    while error is not None:
        yield error
        error = error.__cause__
