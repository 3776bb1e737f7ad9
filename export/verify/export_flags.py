"""Finds where a network's forward asks whether it is being exported, because the file then holds another branch.

Requires: the network that the user passed.
Ensures: the network and its random state are unchanged.
"""

import contextlib
import linecache
import sys
from collections.abc import Callable, Iterator
from types import CodeType, FrameType
from typing import Any

import torch
from torch import nn

from export.errors import ExportError, ParityError, ShapeError
from export.tracing.arguments import Arguments
from export.tracing.run import cpu_copy
from export.tracing.source_lines import TORCH_FOLDER, last_user_line, location
from export.tracing.trace import module_tracker

# The functions that return something else during an export, by their code, however they were imported.
FLAGS: dict[CodeType, str] = {
    function.__code__: name
    for function, name in (
        (torch.compiler.is_exporting, "torch.compiler.is_exporting()"),
        (torch.compiler.is_compiling, "torch.compiler.is_compiling()"),
        (torch._utils.is_compiling, "torch.compiler.is_compiling()"),
        (torch._dynamo.external_utils.is_compiling, "torch.compiler.is_compiling()"),
        (torch.onnx.is_in_onnx_export, "torch.onnx.is_in_onnx_export()"),
    )
}


def export_flag(network: nn.Module, arguments: Arguments) -> str:
    """Return the first such question of a forward, with its module and line; empty if there is none."""
    questions: list[str] = []
    network = cpu_copy(network)
    with (
        module_tracker(network) as current_path,
        torch.random.fork_rng(devices=[]),
        contextlib.suppress(Exception, SystemExit),
        _observed_calls(lambda frame: _note(questions, frame, current_path)),
    ):
        arguments.call(network)
    return questions[0] if questions else ""


@contextlib.contextmanager
def export_flag_errors(network: nn.Module, arguments: Arguments) -> Iterator[None]:
    """Name the question in each error that it may have caused: the file differs from PyTorch."""
    try:
        yield
    except (ParityError, ShapeError) as error:
        if flag := export_flag(network, arguments):
            raise _other_branch(flag, error) from error
        raise


def _other_branch(flag: str, error: ExportError) -> ExportError:
    return type(error)(
        f"the network's forward branches on {flag}, and the file, which holds the branch of the export, differs from "
        f"the one that PyTorch runs; remove that branch: {error}"
    )


def _note(questions: list[str], frame: FrameType, current_path: Callable[[], str]) -> None:
    caller = frame.f_back
    if frame.f_code in FLAGS and caller is not None and not caller.f_code.co_filename.startswith(TORCH_FOLDER):
        file, line = caller.f_code.co_filename, caller.f_lineno
        where = location(current_path(), last_user_line([(file, str(line), linecache.getline(file, line))]))
        questions.append(f"{FLAGS[frame.f_code]}{where}")


@contextlib.contextmanager
def _observed_calls(callback: Callable[[FrameType], None]) -> Iterator[None]:
    """Call `callback` with the frame of each call of a Python function inside the block."""

    def observe(frame: FrameType, event: str, _argument: Any) -> None:
        if event == "call":
            callback(frame)

    before = sys.getprofile()
    sys.setprofile(observe)
    try:
        yield
    finally:
        sys.setprofile(before)
