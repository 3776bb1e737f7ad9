"""`zoonnx check` needs only the serve extra, without PyTorch."""

import subprocess
import sys

from tests.conftest import ROOT
from tests.export.check.conftest import SCHEMA_1

WITHOUT = """
import sys
REFUSED = {"torch", "torchvision", "timm", "zoo", "serve", "grpc", "onnxscript", "sklearn"}
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in REFUSED:
            raise ModuleNotFoundError(f"check must not import {name}", name=name)
sys.meta_path.insert(0, Refuse())
import zoonnx
zoonnx.main(sys.argv[1:])
"""


def run(*arguments: object) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-c", WITHOUT, *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


def test_where_torch_cannot_be_imported() -> None:
    """All checks run and pass in a process in which PyTorch, timm, zoo and serve cannot be imported."""
    done = run("check", SCHEMA_1)
    assert (done.returncode, done.stderr) == (0, "")
    assert "All 12 checks passed." in done.stdout


def test_export_needs_torch() -> None:
    """The same process cannot export, which proves that the imports are blocked."""
    done = run("export", "convnet4", "--to", "nowhere")
    assert done.returncode == 2
    assert "is not installed" in done.stderr
