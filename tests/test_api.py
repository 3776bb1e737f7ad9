"""`import zoonnx`: the public API by name."""

import subprocess
import sys

import pytest

import zoonnx
from tests.conftest import ROOT

HEAVY = {"torch", "torchvision", "timm", "onnx", "onnxruntime", "sklearn", "accelerate"}


@pytest.mark.parametrize("name", zoonnx.API)
def test_every_name_is_there(name: str) -> None:
    """Each public name can be imported, is listed by dir(), and has a docstring."""
    assert name in dir(zoonnx)
    assert getattr(zoonnx, name).__doc__


def test_all_names_are_exported() -> None:
    """`from zoonnx import *` imports the API and `main`."""
    assert sorted(zoonnx.__all__) == sorted([*zoonnx.API, "main"])


def test_an_unknown_name() -> None:
    """An unknown name is an AttributeError, as in any module."""
    with pytest.raises(AttributeError, match="module 'zoonnx' has no attribute 'clients'"):
        zoonnx.clients  # noqa: B018


def test_a_client_needs_none_of_the_large_packages() -> None:
    """A program that only queries a server imports no PyTorch and no onnxruntime."""
    code = (
        "import sys, zoonnx; zoonnx.Client; zoonnx.serve\n"
        f"sys.exit(str(sorted(set(sys.modules) & {HEAVY})) if set(sys.modules) & {HEAVY} else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
