"""What several rooms' tests share: how the command is run, and models that are made once."""

import functools
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import hypothesis
import pytest

ROOT = Path(__file__).resolve().parent.parent
Zoonnx = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def zoonnx() -> Zoonnx:
    """Run `zoonnx VERB ...` in a process of its own; returns what it said and its exit status."""

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
    """Leave the machine's other cores to the other test processes."""
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def read_torchlib_once() -> Iterator[None]:
    """Let torch.onnx parse its 500 functions at the first export only: a quarter of a small network's time each."""
    if "torch" not in sys.modules:
        yield
        return
    from torch.onnx._internal.exporter import _registration

    apis = _registration.onnxscript_apis
    read = functools.cache(lambda: apis.get_torchlib_ops())  # onnxscript is imported when the first asks
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_registration, "onnxscript_apis", SimpleNamespace(get_torchlib_ops=read))
        yield


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest tests, so that none is left alone at the end; the others stay in their random order."""
    items.sort(key=lambda item: item.get_closest_marker("first") is None)


hypothesis.settings.register_profile("repeatable", derandomize=True, deadline=None)
hypothesis.settings.load_profile("repeatable")
