"""The docs do what they say: README's blocks run, and every verb is mentioned."""

import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable
from inspect import signature
from pathlib import Path

import pytest

import zoonnx as dispatcher
from tests.conftest import ROOT
from zoo.cli.train import train, tune

Shell = Callable[[str], "subprocess.CompletedProcess[str]"]
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    """README's code blocks of one language."""
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    """Run a block in bash in an empty folder, with `zoonnx` and `python` on the PATH; stop at the first failure."""
    tools = tmp_path / "bin"
    tools.mkdir()
    for tool, command in {"zoonnx": "-m zoonnx", "python": ""}.items():
        (tools / tool).write_text(f'#!/bin/sh\nexec "{sys.executable}" {command} "$@"\n')
        (tools / tool).chmod(0o755)
    work = tmp_path / "work"
    work.mkdir()
    environment = {**os.environ, "PATH": f"{tools}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}

    def run(script: str) -> "subprocess.CompletedProcess[str]":
        command = ["bash", "-euo", "pipefail", "-c", script]
        return subprocess.run(
            command, cwd=work, env=environment, capture_output=True, text=True, timeout=380, check=False
        )

    return run


@pytest.mark.first
@pytest.mark.timeout(400)
def test_readme_runs_from_top_to_bottom(shell: Shell, tmp_path: Path) -> None:
    """The shell blocks, then the Python block against the server that they started, in order, in one shell.

    Then every file is there that README says an export has.
    """
    python = "".join(f"python -W error - <<'PYTHON'\n{block}\nPYTHON\n" for block in blocks("python"))
    script = "trap 'kill $(jobs -p) 2>/dev/null || true' EXIT\n" + "\n".join(blocks("shell")[:-1])
    script += f"\n{python}\n{blocks('shell')[-1]}"
    done = shell(script.replace("8001", str(free_port())))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "ready: 1 model on grpc" in done.stdout
    written = re.findall(r"^    ((?:models|reports)/\S+)", README, flags=re.MULTILINE)
    assert len(written) >= 6
    assert [file for file in written if not (tmp_path / "work" / file).exists()] == []


@pytest.mark.parametrize("verb", dispatcher.VERBS)
def test_every_verb_is_in_the_readme(verb: str) -> None:
    """A verb that nobody can read of does not exist."""
    assert re.search(rf"(zoonnx|make) {verb}\b", README)


def test_architecture_names_real_tests() -> None:
    """Each invariant names a test that is there."""
    text = (ROOT / "ARCHITECTURE.md").read_text()
    named = re.findall(r"`(tests/[\w/]+\.py)((?:::\w+)*)`", text)
    assert len(named) >= 9
    for file, parts in named:
        source = (ROOT / file).read_text()
        assert all(re.search(rf"(class|def) {part}\b", source) for part in parts.split("::") if part), file + parts


def test_architecture_names_real_files() -> None:
    """Each file of the code map is there."""
    rows = re.findall(r"^\| (`.+?) \|", (ROOT / "ARCHITECTURE.md").read_text(), flags=re.MULTILINE)
    for row in rows:
        paths = re.findall(r"`([\w./]+)`", row)
        folder = ROOT / paths[0].rpartition("/")[0]
        missing = [path for path in paths if not ((ROOT / path).exists() or (folder / path).exists())]
        assert missing == []


class TestDataPage:
    """docs/data.md."""

    PAGE = (ROOT / "docs" / "data.md").read_text()

    def test_it_names_each_data_set(self) -> None:
        """The embedded ones, every set of torchvision that is known, every ending of an image's name."""
        from zoo.data.image_io import SUFFIXES
        from zoo.data.registry import DATASETS
        from zoo.data.torchvision import SETS

        assert [name for name in (*DATASETS, *SETS, *SUFFIXES) if not re.search(rf"{name}\b", self.PAGE)] == []
        assert "docs/data.md" in README

    def test_the_table_of_labels_is_read(self, tmp_path: Path) -> None:
        """As the page says."""
        from zoo.data.labels_csv import read_table

        (table,) = re.findall(r"```csv\n(.*?)```", self.PAGE, flags=re.DOTALL)
        (tmp_path / "labels.csv").write_text(table)
        rows = read_table(tmp_path)
        assert rows[0].labels == {"bird", "sky"}
        assert [row.split for row in rows] == ["train", "train", "test", "val", "train", "train"]

    def test_its_commands_are_understood(self) -> None:
        """Each option is one of its verb's, each network one that can be built."""
        from zoo import create_model

        for line in re.findall(r"^    zoonnx (.*)$", self.PAGE, flags=re.MULTILINE):
            verb, network, *options = line.split()
            said = subprocess.run(
                [sys.executable, "-m", "zoonnx", verb, "--help"], capture_output=True, text=True, cwd=ROOT, check=True
            )
            assert [name for name in options if name.startswith("--") and name not in said.stdout] == []
            create_model(network)


def test_training_page_names_options_that_exist() -> None:
    """Each option that docs/training.md tells of is one of `train` or `tune`, or torchrun's own."""
    named = set(re.findall(r"--[a-z]+(?:-[a-z]+)*", (ROOT / "docs" / "training.md").read_text()))
    known = {f"--{name.replace('_', '-')}" for function in (train, tune) for name in signature(function).parameters}
    assert named - known == {"--nproc-per-node"}
