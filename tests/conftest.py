"""What several rooms' tests share: how the command is run, and models that are made once."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

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


hypothesis.settings.register_profile("repeatable", derandomize=True, deadline=None)
hypothesis.settings.load_profile("repeatable")
