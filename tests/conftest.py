"""Fixtures and settings that all tests share."""

import functools
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import hypothesis
import pytest

ROOT = Path(__file__).resolve().parent.parent
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # inherited from a shell that runs the tests in the background
    signal.signal(signal.SIGINT, signal.default_int_handler)
os.environ.pop("COLUMNS", None)  # pytest-xdist sets the width of its terminal
Zoonnx = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def zoonnx() -> Zoonnx:
    """Run `zoonnx VERB ...` in a process of its own; return the finished process."""

    def run(*arguments: object, cwd: Path = ROOT, **environment: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-m", "zoonnx", *map(str, arguments)],
            cwd=cwd,
            env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "120", **environment},
            capture_output=True,
            text=True,
            timeout=500,
            check=False,
        )

    return run


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Compute in one thread: the other cores belong to the other test processes."""
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def read_torchlib_once() -> Iterator[None]:
    """Parse torch.onnx's 500 functions at the first export only: they take a quarter of a small export's time."""
    if "torch" not in sys.modules:
        yield
        return
    from torch.onnx._internal.exporter import _registration

    apis = _registration.onnxscript_apis
    read = functools.cache(lambda: apis.get_torchlib_ops())  # onnxscript is imported at the first call
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_registration, "onnxscript_apis", SimpleNamespace(get_torchlib_ops=read))
        yield


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the longest tests first, so that no process is left alone with one; keep the others in random order."""
    items.sort(key=lambda item: item.get_closest_marker("first") is None)


hypothesis.settings.register_profile("repeatable", derandomize=True, deadline=None)
hypothesis.settings.load_profile("repeatable")
