"""`pip install 'zoonnx[serve]'` installs all that a server needs, and no PyTorch."""

import json
import os
import signal
import subprocess
import sys
import sysconfig
import venv
import zipfile
from collections.abc import Iterator
from importlib.metadata import Distribution, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from PIL import Image

from export import ExportSettings, export_model
from tests.conftest import ROOT
from zoo import load_network

HEAVY = ("torch", "torchvision", "timm", "accelerate", "sklearn", "scipy")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, as built from this checkout."""
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = out.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with one model."""
    to = tmp_path_factory.mktemp("repository") / "models"
    export_model(load_network("convnet4"), ExportSettings(to=to, name="tiny"))
    return to


def requirements(extra: str) -> dict[str, Distribution]:
    """Return each distribution that `zoonnx[extra]` needs in this environment, by canonical name."""
    needed: dict[str, Distribution] = {}
    visited: set[tuple[str, str]] = set()
    waiting = [("zoonnx", extra)]
    while waiting:
        name, extra = waiting.pop()
        if (name, extra) in visited:
            continue
        visited.add((name, extra))
        needed[name] = distribution(name)
        for text in needed[name].requires or ():
            requirement = Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
                waiting += [(canonicalize_name(requirement.name), option) for option in ("", *requirement.extras)]
    del needed["zoonnx"]
    return needed


def test_serve_extra_is_enough_offline(tmp_path: Path, wheel: Path, models: Path) -> None:
    """A server works in an environment with the wheel and the requirements of its `serve` extra only."""
    environment = tmp_path / "venv"
    venv.create(environment, with_pip=False, symlinks=True)
    site = environment / Path(sysconfig.get_path("purelib")).relative_to(sys.prefix)
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    for installed in requirements("serve").values():
        link(installed, site)
    serves_without_torch(environment / "bin" / "python", models, tmp_path)


@pytest.mark.slow
def test_serve_extra_is_enough(tmp_path: Path, wheel: Path, models: Path) -> None:
    """A server works after pip has installed the wheel from the package index into a clean environment."""
    environment = tmp_path / "venv"
    venv.create(environment, with_pip=True)
    python = environment / "bin" / "python"
    pins = ["-c", str(ROOT / "constraints.txt")]
    subprocess.run([python, "-m", "pip", "install", "-q", *pins, f"{wheel}[serve]"], check=True, capture_output=True)
    serves_without_torch(python, models, tmp_path)


def link(installed: Distribution, site: Path) -> None:
    """Make one installed distribution visible in another environment."""
    for file in installed.files or ():
        if file.parts[0] in ("..", "__pycache__") or file.suffix == ".pyc":
            continue
        target = site / file
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.exists():
            target.symlink_to(Path(str(file.locate())).resolve())


def serves_without_torch(python: Path, models: Path, tmp_path: Path) -> None:
    """Check that there is no PyTorch, check a model, start a server and classify an image."""
    for name in HEAVY:
        done = run_python(python, "-c", f"import {name}")
        assert (done.returncode, f"No module named '{name}'" in done.stderr) == (1, True)
    done = run_python(python, "-m", "zoonnx", "check", models / "tiny")
    assert (done.returncode, done.stderr) == (0, "")
    Image.new("L", (8, 8), 200).save(tmp_path / "grey.png")
    for url in server(python, models):
        done = run_python(
            python, "-m", "zoonnx", "infer", tmp_path / "grey.png", "--model", "tiny", "--url", url, "--json"
        )
        assert (done.returncode, done.stderr) == (0, "")
        assert len(json.loads(done.stdout)["results"][0]["logits"]) == 10


def run_python(python: Path, *arguments: object) -> "subprocess.CompletedProcess[str]":
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONHOME")}
    command = [str(python), *map(str, arguments)]
    return subprocess.run(
        command, cwd=python.parent, env=environment, capture_output=True, text=True, timeout=60, check=False
    )


def server(python: Path, models: Path) -> Iterator[str]:
    """A server's HOST:PORT while it runs; it must stop cleanly."""
    command = [str(python), "-m", "zoonnx", "serve", str(models), "--grpc-port", "0"]
    with subprocess.Popen(command, cwd=python.parent, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as run:
        try:
            line = run.stdout.readline() if run.stdout else ""
            assert line.startswith("ready: 1 model on grpc 127.0.0.1:"), run.communicate(timeout=20)
            yield line.split()[-1]
            run.send_signal(signal.SIGTERM)
            assert run.wait(20) == 0
        finally:
            run.kill()
