"""Tests of warm-up runs, padded batches, and models that do not fit into the memory."""

import os
import re
from pathlib import Path

import numpy as np
import pytest
from google.protobuf import text_format
from onnx import TensorProto, helper

from protos import inference
from serve.batching.batcher import Batcher
from serve.batching.queue import BatchSettings
from serve.batching.statistics import Statistics
from serve.devices import memory
from serve.engine import warmup
from serve.engine.model import Model as ModelOnDisk
from serve.engine.session import Session
from serve.errors import BadModelError
from serve.repository import model_config, repository
from serve.repository.model_config import Signature
from serve.settings import ServerSettings
from serve.wire.tensors import TensorSpec
from tests.conftest import Zoonnx
from tests.serve.batching.test_batcher import Arrays, Model, rows, submit
from tests.serve.conftest import write_identity, write_model

BUCKETS = (1, 2, 4, 6)


class RecordingSession(Session):
    """A session that records the input shapes of its warm-up runs."""

    def warm_up_run(self, inputs: Arrays) -> bool:
        self.shapes = [*getattr(self, "shapes", []), *(array.shape for array in inputs.values())]
        return super().warm_up_run(inputs)


def warm_up_shapes(path: Path, shape: tuple[int | str, ...], sizes: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Return the input shapes of a model's warm-up runs."""
    session = RecordingSession.open(path, "cpu")
    config = model_config.complete(None, "model", session.inputs, session.outputs, 4 if "n" in shape else 0)
    warmup.warm_up(session, model_config.signature(config), sizes, "model")
    return getattr(session, "shapes", [])


@pytest.mark.parametrize(
    ("device", "max_batch_size", "preferred", "expected"),
    [
        ("cuda", 32, (32,), (1, 2, 4, 8, 16, 32)),
        ("cuda", 6, (3,), (1, 2, 3, 4, 6)),
        ("cuda", 1, (), ()),
        ("cuda", 0, (), ()),
        ("cpu", 32, (32,), ()),
    ],
)
def test_buckets(
    device: warmup.Device, max_batch_size: int, preferred: tuple[int, ...], expected: tuple[int, ...]
) -> None:
    """A GPU runs a few batch sizes; a CPU runs any size."""
    assert warmup.buckets(device, max_batch_size, preferred) == expected


@pytest.mark.parametrize(
    ("shape", "kind", "sizes", "expected"),
    [
        (("n", 3), TensorProto.FLOAT, BUCKETS, [(6, 3), (4, 3), (2, 3), (1, 3), (1, 3)]),
        (("n", 3), TensorProto.FLOAT, (), [(1, 3), (1, 3)]),
        ((2, 3), TensorProto.INT64, (), [(2, 3), (2, 3)]),
        (("n", 2), TensorProto.STRING, (), [(1, 2), (1, 2)]),
        (("n", "w"), TensorProto.FLOAT, BUCKETS, []),
    ],
)
def test_each_bucket_is_warmed(
    tmp_path: Path, shape: tuple[int | str, ...], kind: int, sizes: tuple[int, ...], expected: list[tuple[int, ...]]
) -> None:
    """Each size runs once, the smallest again to be timed; a model with inputs of dynamic size does not run."""
    assert warm_up_shapes(write_identity(tmp_path / "model.onnx", shape, kind), shape, sizes) == expected


def test_a_model_that_fails_on_zeros_is_served(tmp_path: Path) -> None:
    """A model that fails on zeros, here because they are a shape, runs on valid inputs."""
    nodes = [helper.make_node("Reshape", ["x", "shape"], ["y"])]
    path = write_model(
        tmp_path / "model.onnx",
        nodes,
        [("x", TensorProto.INT64, [6]), ("shape", TensorProto.INT64, [2])],
        [("y", TensorProto.INT64, ["a", "b"])],
    )
    session = Session.open(path, "cpu")
    assert not session.warm_up_run({"x": np.zeros(6, np.int64), "shape": np.array([4, 2])})
    assert session.run({"x": np.arange(6), "shape": np.array([3, 2])}, ["y"])["y"].shape == (3, 2)


SAMPLE = 'model_warmup { name: "w" batch_size: 2 count: 3 inputs { key: "x" value { %s } } }'


def configured_shapes(tmp_path: Path, text: str) -> list[tuple[int, ...]]:
    """Return the input shapes of the configured warm-up runs of a model with a dynamic size."""
    session = RecordingSession.open(write_identity(tmp_path / "model.onnx", ("n", "w")), "cpu")
    written = text_format.Parse(f"max_batch_size: 4 {text}", inference.ModelConfig())
    config = model_config.complete(written, "model", session.inputs, session.outputs)
    warmup.run_configured_warmup(session, config, model_config.signature(config))
    return getattr(session, "shapes", [])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        (SAMPLE % "data_type: TYPE_FP32 dims: 5 zero_data: true", [(2, 5)] * 3),
        (SAMPLE % "data_type: TYPE_FP32 dims: 7 random_data: true", [(2, 7)] * 3),
        (SAMPLE % "data_type: TYPE_FP32 dims: 7 input_data_file: '../../secret'", []),
    ],
)
def test_configured_warm_up(tmp_path: Path, text: str, expected: list[tuple[int, ...]]) -> None:
    """`model_warmup` runs its samples `count` times each; samples that read files are skipped."""
    assert configured_shapes(tmp_path, text) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (SAMPLE.replace('"x"', '"z"') % "data_type: TYPE_FP32 dims: 5", "has inputs z; the model has x"),
        (SAMPLE % "data_type: TYPE_INT8 dims: 5", "does not run on its warm-up 'w'"),
        (SAMPLE % "dims: 5", "without a datatype"),
        (SAMPLE % "data_type: TYPE_FP32 dims: -5", "of an impossible shape"),
        (SAMPLE % "data_type: TYPE_FP32 dims: 1152921504606846976", "of an impossible shape"),
        (SAMPLE % "data_type: TYPE_FP32", "does not run on its warm-up 'w'"),
    ],
)
def test_invalid_warm_up(tmp_path: Path, text: str, message: str) -> None:
    """A sample that does not run on the model is a configuration error."""
    with pytest.raises(BadModelError, match=message):
        configured_shapes(tmp_path, text)


def write_huge(path: Path) -> Path:
    """Write a small file that needs 64 TiB when it runs."""
    nodes = [
        helper.make_node("Constant", [], ["shape"], value_ints=[2**22, 2**22]),
        helper.make_node("ConstantOfShape", ["shape"], ["zeros"]),
        helper.make_node("Add", ["zeros", "x"], ["y"]),
    ]
    value = [TensorProto.FLOAT, [1, 1]]
    return write_model(path, nodes, [("x", *value)], [("y", TensorProto.FLOAT, [2**22, 2**22])])


def test_a_model_that_exceeds_the_memory_is_rejected(tmp_path: Path) -> None:
    """Running out of memory in the warm-up is an error of the model, not of each request."""
    session = Session.open(write_huge(tmp_path / "model.onnx"), "cpu")
    signature = Signature((TensorSpec("x", "FP32", (1, 1)),), (), 0)
    with pytest.raises(BadModelError, match=r"model\.onnx does not fit: out of memory"):
        warmup.warm_up(session, signature, (), "model")


@pytest.mark.parametrize(
    ("dims", "message"),
    [
        ("[4000000000, 4000000000]", "m, version 1, does not fit: its input 'x' of shape"),
        ("[400000, 400000]", "m, version 1, does not fit: its input 'x' of shape"),
        ("[7, -5]", "has dims [7, -5]: a size is 0 or more"),
        ("[0, -5]", "has dims [0, -5]: a size is 0 or more"),
    ],
)
def test_impossible_sizes(tmp_path: Path, dims: str, message: str) -> None:
    """Sizes in the configuration for which no array can be allocated are an error that names them."""
    write_identity(tmp_path / "m" / "1" / "model.onnx", ("n", "h", "w"))
    text = f"max_batch_size: 1 input {{ name: 'x' data_type: TYPE_FP32 dims: {dims} }}"
    (tmp_path / "m" / "config.pbtxt").write_text(text)
    files = repository.read_model(tmp_path, "m")
    with pytest.raises(BadModelError, match=re.escape(message)):
        ModelOnDisk.load(files, files.candidates[0].read(), ServerSettings(models=tmp_path, provider="cpu"))


def test_weights_larger_than_memory_are_rejected(tmp_path: Path, zoonnx: Zoonnx) -> None:
    """The server exits with one sentence before it reads the weights."""
    path = write_identity(tmp_path / "models" / "big" / "1" / "model.onnx")
    os.truncate(path.parent / "model.onnx", 2**42)  # sparse: uses no disk space
    done = zoonnx("serve", tmp_path / "models", "--provider", "cpu", "--grpc-port", 0)
    assert (done.returncode, done.stdout) == (2, "")
    assert "does not fit: its weights need 4194304 MiB;" in done.stderr


def test_memory_limit_of_a_container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A container's limit applies if it is smaller; its file cache counts as available."""
    monkeypatch.setattr(memory, "CGROUP", tmp_path)
    (tmp_path / "memory.max").write_text("5000000\n")
    (tmp_path / "memory.current").write_text("4000000\n")
    (tmp_path / "memory.stat").write_text("anon 1000000\ninactive_file 2000000\nactive_file 500000\n")
    assert memory.available_bytes() == 3_500_000
    (tmp_path / "memory.max").write_text("max\n")
    assert memory.available_bytes() == pytest.approx(memory.meminfo_bytes()["MemAvailable"], rel=0.2)


class TestPadding:
    """Batches padded to a bucket; outputs and counts are those of the unpadded requests."""

    @pytest.mark.parametrize(("count", "size"), [(1, 1), (3, 4), (5, 6), (6, 6)])
    def test_a_batch_is_padded(self, count: int, size: int) -> None:
        """The model runs a bucket's size; the request gets only its own rows, and only these are counted."""
        model, statistics = Model(), Statistics()
        batcher = Batcher(model.run, BatchSettings(6, buckets=BUCKETS), statistics)
        outputs = submit(batcher, rows(*range(count))).outputs()
        assert batcher.close(10)
        assert outputs["y"][:, 0].tolist() == [2.0 * value for value in range(count)]
        assert [rows for rows, _ in model.batches] == [size]
        assert (statistics.inferences, list(statistics.batches)) == (count, [count])

    def test_an_output_without_a_batch_is_run_unpadded(self) -> None:
        """If an output does not have one row for each input row, each request runs again without padding."""
        model = Model()
        batcher = Batcher(model.run, BatchSettings(6, buckets=BUCKETS), Statistics())
        outputs = submit(batcher, rows(1, 2, 3, 4, 5), frozenset({"constant"})).outputs()
        assert batcher.close(10)
        assert [rows for rows, _ in model.batches] == [6, 5]
        assert outputs["constant"].tolist() == [0, 1, 2, 3]
