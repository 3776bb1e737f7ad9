"""Tests of loading one version of a model: its threads and its warm-up."""

from pathlib import Path
from typing import Any

import pytest

from serve.engine import model as model_module
from serve.engine.model import Model
from serve.engine.session import Session
from serve.repository import repository
from serve.settings import ServerSettings
from tests.serve.conftest import write_busy, write_identity


def load(folder: Path) -> Model:
    files = repository.read_model(folder.parent, folder.name)
    return Model.load(files, files.candidates[0].read(), ServerSettings(models=folder.parent, provider="cpu"))


def test_the_session_that_serves_is_warm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cheap model is opened again with one thread, and that session is warmed up too."""
    warmed: list[Session] = []
    warm_up = model_module.warm_up

    def recorded(session: Session, *arguments: Any) -> int | None:
        warmed.append(session)
        warm_up(session, *arguments)
        return 1

    monkeypatch.setattr(model_module, "warm_up", recorded)
    monkeypatch.setattr("serve.engine.session._cores", lambda: 4)
    write_identity(tmp_path / "m" / "1" / "model.onnx")
    serving = load(tmp_path / "m").session(frozenset())
    assert [session._runtime.get_session_options().intra_op_num_threads for session in warmed] == [3, 1]
    assert warmed[-1] is serving


def test_loops_never_run_inline(tmp_path: Path) -> None:
    """A model whose time depends on its data never runs in the thread that receives requests; others may."""
    write_busy(tmp_path / "busy", "")
    write_identity(tmp_path / "plain" / "1" / "model.onnx")
    limits_ns = []
    for name in ("busy", "plain"):
        model = load(tmp_path / name)
        model.start()
        limits_ns.append(model.batcher._settings.inline_limit_ns)
        assert model.close(10)
    assert limits_ns[0] == 0 < limits_ns[1]
