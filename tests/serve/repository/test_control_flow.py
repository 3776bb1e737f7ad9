"""Tests of the search for loops in model files."""

from pathlib import Path

import pytest

from serve.repository import control_flow
from serve.repository.control_flow import may_loop
from tests.serve.conftest import write_busy, write_identity


def test_loops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file with a Loop may loop, one without does not, and nothing is claimed of a file too large to search."""
    write_busy(tmp_path / "busy", "")
    plain = write_identity(tmp_path / "plain.onnx")
    assert may_loop(tmp_path / "busy" / "1" / "model.onnx")
    assert not may_loop(plain)
    (tmp_path / "empty.onnx").touch()
    assert not may_loop(tmp_path / "empty.onnx")
    monkeypatch.setattr(control_flow, "MAX_FILE_BYTES", plain.stat().st_size - 1)
    assert may_loop(plain)
