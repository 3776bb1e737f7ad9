"""Tests that the requested device is used, or that a fallback is reported."""

import ctypes
import logging
import sys
from pathlib import Path

import onnxruntime
import pytest

from serve.devices import cuda
from serve.engine import session
from serve.engine.session import Session
from serve.errors import ProviderError
from tests.conftest import Zoonnx
from tests.serve.conftest import write_identity


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_identity(tmp_path / "model.onnx")


@pytest.fixture
def no_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """Simulate a machine without a CUDA driver."""
    monkeypatch.setattr(session, "missing_for_cuda", lambda: "there is no driver here.")


def test_cuda_is_not_replaced(no_cuda: None, model: Path) -> None:
    """With `cuda`, a missing requirement of CUDA is an error."""
    with pytest.raises(ProviderError, match=r"^CUDA cannot be used: there is no driver here\.$"):
        Session.open(model, "cuda")


def test_auto_logs_its_fallback(no_cuda: None, model: Path, caplog: pytest.LogCaptureFixture) -> None:
    """With `auto`, models fall back to the CPU, and the reason is logged once."""
    session._warn_once.cache_clear()
    assert [Session.open(model, "auto").device for _ in range(2)] == ["cpu", "cpu"]
    (record,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert record.getMessage() == "models run on the CPU: CUDA cannot be used: there is no driver here."


def test_silent_fallback_is_detected(
    monkeypatch: pytest.MonkeyPatch, model: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """If onnxruntime silently falls back to the CPU, the session is rejected."""
    monkeypatch.setattr(session, "missing_for_cuda", lambda: None)
    monkeypatch.setitem(session.PROVIDERS, "cuda", "TensorrtExecutionProvider")  # type: ignore[misc, unused-ignore]
    with pytest.raises(ProviderError, match="CUDA cannot"):
        Session.open(model, "cuda")
    assert capfd.readouterr().out == ""


def test_runtime_without_cuda(monkeypatch: pytest.MonkeyPatch, model: Path) -> None:
    """The error for a CPU-only onnxruntime names the package to install."""
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    session.missing_for_cuda.cache_clear()
    with pytest.raises(ProviderError, match=r"pip install 'zoonnx\[cuda\]'"):
        Session.open(model, "cuda")
    session.missing_for_cuda.cache_clear()


class FakeDriver:
    """A driver library whose `cuInit` returns `status`."""

    def __init__(self, status: int) -> None:
        self.cuInit = lambda _: status


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (None, "there is no NVIDIA driver on this machine (libcuda.so.1)."),
        (100, "the NVIDIA driver finds no GPU: check nvidia-smi and CUDA_VISIBLE_DEVICES."),
        (803, "the NVIDIA driver does not start: cuInit returned 803; check nvidia-smi."),
        (0, None),
    ],
)
def test_driver_errors(monkeypatch: pytest.MonkeyPatch, status: int | None, message: str | None) -> None:
    """A missing driver, a missing GPU and a driver that does not start have different messages."""

    def load(name: str) -> FakeDriver:
        if status is None:
            raise OSError(f"{name}: cannot open shared object file")
        return FakeDriver(status)

    monkeypatch.setattr(ctypes, "CDLL", load)
    assert cuda.missing.__wrapped__() == message


def test_libraries_in_other_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The folders of NVIDIA's wheels are tried wherever they are, without output on stdout."""
    folders = [tmp_path / "nvidia" / name / "lib" for name in ("cu13", "cudnn")]
    for folder in folders:
        folder.mkdir(parents=True)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "nvidia", raising=False)
    tried: list[str | None] = []

    def preload(directory: str | None = None) -> None:
        sys.stdout.write("Failed to load a library")
        tried.append(directory)

    monkeypatch.setattr(onnxruntime, "preload_dlls", preload)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(cuda, "missing", lambda: None)
    assert session.missing_for_cuda.__wrapped__() is None
    assert tried[0] is None
    assert {str(folder) for folder in folders} <= set(tried[1:])
    assert capfd.readouterr().out == ""


def test_a_missing_library(tmp_path: Path) -> None:
    """The error names the library that onnxruntime's CUDA provider lacks, and the package to install."""
    assert (cuda.unloadable(tmp_path) or "").startswith("the installed onnxruntime lacks libonnxruntime_providers_cuda")
    for name in (cuda.SHARED, cuda.CUDA):
        (tmp_path / name).write_bytes(b"no library")
    message = cuda.unloadable(tmp_path) or ""
    assert cuda.SHARED in message
    assert message.endswith("run: pip install 'zoonnx[cuda]'")


def test_a_server_does_not_start_without_cuda(zoonnx: Zoonnx, model: Path) -> None:
    """On a machine without a GPU, `--provider cuda` exits at once with one sentence on the cause."""
    done = zoonnx("serve", model, "--provider", "cuda", "--grpc-port", 0, CUDA_VISIBLE_DEVICES="")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines()[-1].startswith("zoonnx serve: CUDA cannot be used: ")


def test_cpu_logs_nothing(model: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> None:
    """With `cpu` nothing is logged or printed, by us or by onnxruntime."""
    assert Session.open(model, "cpu").device == "cpu"
    assert (caplog.records, capfd.readouterr()) == ([], ("", ""))
