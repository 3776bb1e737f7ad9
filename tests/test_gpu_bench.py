"""`make gpu` on a machine without a GPU."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from bench import gpu
from serve.engine import session
from serve.engine.session import Session
from tests.conftest import ROOT
from tests.serve.conftest import write_images

NO_GPU = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}


def test_missing_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each package that is not installed is named."""
    monkeypatch.setattr(gpu, "NEEDED", {"numpy": "numpy", "no_such.module": "one", "no_such": "another"})
    assert " lacks one, another: " in gpu.missing_requirements("cpu")


def test_development_environment_is_complete() -> None:
    """The development environment has every required module."""
    assert gpu.missing_requirements("cpu") == ""


def test_missing_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reason is the one that the server reports."""
    monkeypatch.setattr(session, "missing_for_cuda", lambda: "there is no driver here.")
    assert gpu.missing_requirements("cuda") == "CUDA cannot be used: there is no driver here."


def test_make_with_an_interpreter() -> None:
    """`make gpu PYTHON=...` installs nothing, and fails with what that interpreter or machine lacks."""
    command = ["make", "--no-print-directory", "gpu", f"PYTHON={sys.executable}"]
    done = subprocess.run(command, cwd=ROOT, env=NO_GPU, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("bench.gpu: CUDA cannot be used: ")
    assert done.stdout == ""


def test_convert_to_fp16(tmp_path: Path) -> None:
    """The fp16 model has the same signature, labels and preprocessing, and nearly the same outputs."""
    write_images(tmp_path / "one")
    config = tmp_path / "one" / "config.pbtxt"
    config.write_text(f'name: "one"\n{config.read_text()}')
    (tmp_path / "one" / "labels.txt").write_text("a\nb\nc\nd\n")
    gpu.convert_to_fp16(tmp_path / "one", tmp_path / "two")
    assert (tmp_path / "two" / "config.pbtxt").read_text() == config.read_text().replace('"one"', '"two"')
    assert (tmp_path / "two" / "labels.txt").read_text() == "a\nb\nc\nd\n"
    x = {"image": np.arange(8, dtype=np.uint8).reshape(2, 2, 2, 1)}
    outputs = [Session.open(tmp_path / name / "1" / "model.onnx", "cpu").run(x, ["logits"]) for name in ("one", "two")]
    assert outputs[1]["logits"].dtype == np.float32
    np.testing.assert_allclose(outputs[1]["logits"], outputs[0]["logits"], rtol=1e-3)


def test_failed_tests_are_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The report names the failed tests, and the exit status is 1."""
    monkeypatch.setattr(gpu, "run_tests", lambda _: {"a": {"outcome": "passed"}, "b": {"outcome": "failure"}})
    monkeypatch.setattr(gpu, "make_models", lambda *_: [])
    monkeypatch.setattr(gpu, "measure", lambda *_: [])
    assert gpu.run(gpu.DRY_RUN, tmp_path, with_tests=True) == 1
    (report,) = tmp_path.glob("gpu-*.md")
    assert "Tests: 1 of 2 passed.\n- b: failure\n" in report.read_text()


def test_pytest_fails_to_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """If pytest itself fails, that is reported as a failed test."""
    monkeypatch.setattr(sys, "executable", "false")
    assert gpu.run_tests(gpu.DRY_RUN) == {"all": {"outcome": "pytest did not run", "seconds": 0.0}}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_dry_run(tmp_path: Path) -> None:
    """All steps run on the CPU with a tiny network; the report has every test and every measurement."""
    command = [sys.executable, "-m", "bench.gpu", "--dry-run", "--out", tmp_path]
    done = subprocess.run(command, cwd=ROOT, env=NO_GPU, capture_output=True, text=True, timeout=880, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (file,) = tmp_path.glob("gpu-*.json")
    report = json.loads(file.read_text())
    assert {test["outcome"] for test in report["results"]["tests"].values()} == {"passed"}
    assert len(report["results"]["tests"]) >= 15
    assert [model["model"] for model in report["results"]["models"]] == ["tiny-fp32", "tiny-fp16"]
    for model in report["results"]["models"]:
        assert min(model[kind]["least"] for kind in ("alone_1", "alone_largest", "singles", "wholes")) > 0
