"""The import rules of ARCHITECTURE.md hold, and each check of them can fail."""

import os
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("zoo", "export", "serve", "protos")

WITHOUT_TORCH = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"torch", "torchvision", "timm", "zoo", "export"}:
            raise ModuleNotFoundError(f"serve must not import {name}", name=name)
sys.meta_path.insert(0, Refuse())
import importlib, pkgutil, serve
for module in pkgutil.walk_packages(serve.__path__, "serve."):
    importlib.import_module(module.name)
loaded = {"torch", "torchvision", "timm", "zoo", "export"} & set(sys.modules)
sys.exit(f"loaded: {loaded}" if loaded else 0)
"""


def run(*command: str, cwd: Path = ROOT, path: Path = ROOT) -> "subprocess.CompletedProcess[str]":
    environment = {**os.environ, "PYTHONPATH": str(path)}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=120, check=False)


def copy_of_packages(to: Path) -> None:
    """Copy the packages and pyproject.toml, so that a test can break a rule in them."""
    import shutil

    for package in PACKAGES:
        shutil.copytree(ROOT / package, to / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", to)


class TestServeNeedsNoTorch:
    """A server's machine has no PyTorch."""

    def test_every_module_imports(self) -> None:
        """Each module of serve can be imported although torch, zoo and export cannot."""
        done = run(sys.executable, "-c", WITHOUT_TORCH)
        assert (done.returncode, done.stderr) == (0, "")

    def test_the_check_can_fail(self, tmp_path: Path) -> None:
        """An import of torch in one module of serve is detected."""
        copy_of_packages(tmp_path)
        with (tmp_path / "serve" / "errors.py").open("a") as file:
            file.write("\nimport torch\n")
        done = run(sys.executable, "-c", WITHOUT_TORCH, cwd=tmp_path, path=tmp_path)
        assert done.returncode != 0
        assert "serve must not import torch" in done.stderr


class TestImportRules:
    """import-linter's contracts, function-level imports included."""

    LINT = str(Path(sys.executable).with_name("lint-imports"))

    def test_contracts_hold(self) -> None:
        """No package imports a forbidden one."""
        done = run(self.LINT, "--no-cache")
        assert done.returncode == 0, done.stdout

    @pytest.mark.parametrize(
        ("file", "line"),
        [
            ("protos/loader.py", "import zoo"),
            ("zoo/errors.py", "import onnx"),
            ("zoo/errors.py", "import serve"),
            ("export/errors.py", "import grpc"),
            ("export/errors.py", "from serve import errors"),
            ("serve/errors.py", "import torch"),
            ("serve/errors.py", "from zoo import errors"),
            ("serve/errors.py", "import onnxruntime"),
            ("export/check/run.py", "from export import pipeline"),
            ("zoo/data/splits.py", "from zoo.training import trainer"),
            ("export/reference/expected.py", "from export.verify import parity"),
            ("serve/engine/model.py", "from serve.frontends.grpc import server"),
            ("serve/engine/call.py", "import asyncio"),
            ("serve/app.py", "import pygrpc_native"),
            ("serve/client/image_input.py", "from serve.client import sync"),
        ],
    )
    def test_each_contract_can_fail(self, tmp_path: Path, file: str, line: str) -> None:
        """A forbidden import is detected, even inside a function."""
        copy_of_packages(tmp_path)
        with (tmp_path / file).open("a") as source:
            source.write(f"\n\ndef sneak() -> None:\n    {line}\n")
        done = run(self.LINT, "--no-cache", cwd=tmp_path, path=tmp_path)
        assert (done.returncode, "BROKEN" in done.stdout) == (1, True), done.stdout + done.stderr


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The files of a freshly built wheel."""
    out = tmp_path_factory.mktemp("wheel")
    done = run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out))
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = out.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist()


class TestWheel:
    """The contents of the wheel."""

    def test_holds_exactly_the_packages(self, names: list[str]) -> None:
        """The four packages, `zoonnx.py` and the metadata; no tests and no temporary files."""
        top = {name.partition("/")[0] for name in names if ".dist-info/" not in name}
        assert top == {*PACKAGES, "zoonnx.py"}

    def test_contains_every_module(self, names: list[str]) -> None:
        """The wheel has the typing markers, the descriptors and every tracked module."""
        tracked = run("git", "ls-files", *PACKAGES, "zoonnx.py").stdout.split()
        assert {name for name in tracked if not name.endswith(".gitkeep")} <= set(names)
        assert {f"{package}/py.typed" for package in PACKAGES} <= set(names)


def test_pins_are_names_and_versions_only() -> None:
    """constraints.txt pins every distribution exactly, without URLs."""
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert all(line.count("==") == 1 and " " not in line and "/" not in line for line in lines)


def test_every_extra_is_reachable() -> None:
    """Each verb's extra is one that pyproject.toml defines."""
    import zoonnx

    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert {extra for _, extra, _ in zoonnx.VERBS.values()} <= set(extras)
