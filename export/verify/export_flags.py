"""Finds where a network's forward may take another branch in the file than in PyTorch.

It may ask whether it is being exported, or read a value of a tensor, which an export does not have, and catch the
error.

Requires: the network that the user passed.
Ensures: the network and its random state are unchanged.
"""

import contextlib
import linecache
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from types import CodeType, FrameType
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from export.errors import ExportError, ParityError, ShapeError
from export.tracing.arguments import Arguments
from export.tracing.run import cpu_copy
from export.tracing.source_lines import TORCH_FOLDER, current_line, last_user_line, location
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
VALUE_READS = (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.equal.default)


def export_flag(network: nn.Module, arguments: Arguments) -> str:
    """Return the first such question of a forward, with its module and line; empty if there is none."""
    questions: list[str] = []
    _observe(network, arguments, lambda path: _observed_calls(lambda frame: _note(questions, frame, path)))
    return questions[0] if questions else ""


def value_read(network: nn.Module, arguments: Arguments) -> str:
    """Return the first place where a forward reads a value of a tensor, as `float(x.max())` does; empty if none."""
    reads: list[str] = []
    _observe(network, arguments, lambda path: _ValueReads(lambda: reads.append(location(path(), current_line()))))
    return f"a value of a tensor{reads[0]}" if reads else ""


def _observe(
    network: nn.Module, arguments: Arguments, observer: Callable[[Callable[[], str]], AbstractContextManager[Any]]
) -> None:
    """Run a copy of a network inside of `observer(current_path)`; it does not matter whether it fails."""
    network = cpu_copy(network)
    with (
        module_tracker(network) as current_path,
        torch.random.fork_rng(devices=[]),
        contextlib.suppress(Exception, SystemExit),
        observer(current_path),
    ):
        arguments.call(network)


@contextlib.contextmanager
def branch_errors(question: str) -> Iterator[None]:
    """Name `question`, on which a forward branches, in each error that it may have caused."""
    try:
        yield
    except ParityError as error:
        raise _other_branch(question, error) from error


@contextlib.contextmanager
def export_flag_errors(network: nn.Module, arguments: Arguments) -> Iterator[None]:
    """Name the question in each error that it may have caused: the file differs from PyTorch."""
    try:
        yield
    except (ParityError, ShapeError) as error:
        if flag := export_flag(network, arguments):
            raise _other_branch(flag, error) from error
        raise


class _ValueReads(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Calls `callback` whenever Python code reads a value of a tensor."""

    def __init__(self, callback: Callable[[], None]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._callback = callback

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in VALUE_READS:
            self._callback()
        return func(*args, **(kwargs or {}))


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
