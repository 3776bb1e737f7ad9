"""A folder in which the pages' commands run."""

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import ROOT

Shell = Callable[[str], "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Shell:
    """Run a script in bash, with `zoonnx` and `python` on the PATH and free ports; stop at the first failure."""
    tools, work = tmp_path_factory.mktemp("bin"), tmp_path_factory.mktemp("work")
    for tool, command in {"zoonnx": "-m zoonnx", "python": ""}.items():
        (tools / tool).write_text(f'#!/bin/sh\nexec "{sys.executable}" {command} "$@"\n')
        (tools / tool).chmod(0o755)
    environment = {**os.environ, "PATH": f"{tools}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}

    def run(script: str) -> "subprocess.CompletedProcess[str]":
        for port in ("8000", "8001"):
            script = script.replace(port, str(_free_port()))
        command = ["bash", "-euo", "pipefail", "-c", script]
        return subprocess.run(
            command, cwd=work, env=environment, capture_output=True, text=True, timeout=380, check=False
        )

    return run


@pytest.fixture(scope="module")
def workspace(shell: Shell) -> Path:
    """A folder with what the README's blocks leave behind; their output is in `readme.txt`."""
    from tests.docs.pages import README, script

    done = shell(script(README))
    assert done.returncode == 0, done.stdout + done.stderr
    folder = Path(shell("pwd").stdout.strip())
    (folder / "readme.txt").write_text(done.stdout)
    return folder


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
