"""Tests of the options of onnxruntime in config.pbtxt."""

from pathlib import Path

import onnxruntime
import pytest

from protos import inference
from serve.engine.session import Session
from serve.errors import BadModelError
from serve.repository.runtime_options import RuntimeOptions, runtime_options
from tests.serve.conftest import write_identity


def config(**parameters: str) -> inference.ModelConfig:
    written = inference.ModelConfig(name="m")
    for name, value in parameters.items():
        written.parameters[name].string_value = value
    return written


def test_options_are_read() -> None:
    """The four options of Triton's backend are read; without them the server chooses."""
    written = config(
        intra_op_thread_count="3", inter_op_thread_count="2", execution_mode="1", enable_mem_arena="0", other="x"
    )
    assert runtime_options(written, 5) == RuntimeOptions(5, 3, 2, is_parallel=True, has_arena=False)
    assert runtime_options(config(), 0) == RuntimeOptions()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("intra_op_thread_count", "two"),
        ("intra_op_thread_count", "-1"),
        ("inter_op_thread_count", "9" * 5000),
        ("execution_mode", "2"),
        ("enable_mem_arena", ""),
        ("enable_mem_arena", "true"),
    ],
)
def test_invalid_options(name: str, value: str) -> None:
    """An invalid value is an error that names the model, the parameter and the value."""
    with pytest.raises(BadModelError, match=rf"model 'm': the parameter {name} .*; got '{value}'"):
        runtime_options(config(**{name: value}), 1)


def test_options_reach_onnxruntime(tmp_path: Path) -> None:
    """A session is opened with the options."""
    options = RuntimeOptions(1, 3, 2, is_parallel=True, has_arena=False)
    session = Session.open(write_identity(tmp_path / "model.onnx"), "cpu", options)
    actual = session._runtime.get_session_options()
    assert (actual.intra_op_num_threads, actual.inter_op_num_threads) == (3, 2)
    assert (actual.execution_mode, actual.enable_cpu_mem_arena) == (onnxruntime.ExecutionMode.ORT_PARALLEL, False)


def test_default_instances(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By default a CPU runs two batches at a time, each on its share of the cores; one core runs one."""
    path = write_identity(tmp_path / "model.onnx")
    for cores, expected in ((1, (1, 1)), (2, (2, 1)), (8, (2, 7))):
        monkeypatch.setattr("serve.engine.session._cores", lambda count=cores: count)
        session = Session.open(path, "cpu")
        assert (session.instances, session._runtime.get_session_options().intra_op_num_threads) == expected
    assert Session.open(path, "cpu", RuntimeOptions(instances=3)).instances == 3
