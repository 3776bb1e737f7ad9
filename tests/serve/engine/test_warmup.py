"""Models run before they are asked, in each size of batch that they will meet; those that do not fit are refused."""

import asyncio
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
from tests.serve.batching.test_batcher import NONE, Arrays, Model, begin, rows
from tests.serve.conftest import write_identity, write_model

BUCKETS = (1, 2, 4, 6)


class Recorded(Session):
    """A session that remembers the shapes of what it was warmed up with."""

    def warm_up_run(self, inputs: Arrays) -> bool:
        self.shapes = [*getattr(self, "shapes", []), *(array.shape for array in inputs.values())]
        return super().warm_up_run(inputs)


def warmed(path: Path, sizes: tuple[int, ...]) -> list[tuple[int, ...]]:
    """The shapes of the runs that a model gets before it takes requests."""
    session = Recorded.open(path, "cpu")
    config = model_config.complete(None, "model", session.inputs, session.outputs)
    warmup.warm_up(session, model_config.signature(config), sizes, "model")
    return getattr(session, "shapes", [])


@pytest.mark.parametrize(
    ("device", "largest", "preferred", "expected"),
    [
        ("cuda", 32, (32,), (1, 2, 4, 8, 16, 32)),
        ("cuda", 6, (3,), (1, 2, 3, 4, 6)),
        ("cuda", 1, (), ()),
        ("cuda", 0, (), ()),
        ("cpu", 32, (32,), ()),
    ],
)
def test_buckets(device: warmup.Device, largest: int, preferred: tuple[int, ...], expected: tuple[int, ...]) -> None:
    """A GPU has few sizes of batch; a CPU takes any."""
    assert warmup.buckets(device, largest, preferred) == expected


@pytest.mark.parametrize(
    ("shape", "kind", "sizes", "expected"),
    [
        (("n", 3), TensorProto.FLOAT, BUCKETS, [(6, 3), (4, 3), (2, 3), (1, 3)]),
        (("n", 3), TensorProto.FLOAT, (), [(1, 3)]),
        ((2, 3), TensorProto.INT64, (), [(2, 3)]),
        (("n", 2), TensorProto.STRING, (), [(1, 2)]),
        (("n", "w"), TensorProto.FLOAT, BUCKETS, []),
    ],
)
def test_each_bucket_is_warmed(
    tmp_path: Path, shape: tuple[int | str, ...], kind: int, sizes: tuple[int, ...], expected: list[tuple[int, ...]]
) -> None:
    """One run for each size; a model whose inputs have free sizes has none that could be known."""
    assert warmed(write_identity(tmp_path / "model.onnx", shape, kind), sizes) == expected


def test_a_model_that_fails_on_zeros_is_served(tmp_path: Path) -> None:
    """Zeros may be what a model cannot take: here, a shape."""
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


ZEROS = 'model_warmup { name: "w" batch_size: 2 count: 3 inputs { key: "x" value { %s } } }'


def as_told(tmp_path: Path, text: str) -> list[tuple[int, ...]]:
    """The shapes of the runs that a configuration asks for, of a model with a free size."""
    session = Recorded.open(write_identity(tmp_path / "model.onnx", ("n", "w")), "cpu")
    written = text_format.Parse(f"max_batch_size: 4 {text}", inference.ModelConfig())
    config = model_config.complete(written, "model", session.inputs, session.outputs)
    warmup.run_configured_warmup(session, config, model_config.signature(config))
    return getattr(session, "shapes", [])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        (ZEROS % "data_type: TYPE_FP32 dims: 5 zero_data: true", [(2, 5)] * 3),
        (ZEROS % "data_type: TYPE_FP32 dims: 7 random_data: true", [(2, 7)] * 3),
        (ZEROS % "data_type: TYPE_FP32 dims: 7 input_data_file: '../../secret'", []),
    ],
)
def test_warm_up_as_the_config_says(tmp_path: Path, text: str, expected: list[tuple[int, ...]]) -> None:
    """`model_warmup` warms sizes that only it can know, as often as it says; no file is read for it."""
    assert as_told(tmp_path, text) == expected


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (ZEROS.replace('"x"', '"z"') % "data_type: TYPE_FP32 dims: 5", "has inputs z; the model has x"),
        (ZEROS % "data_type: TYPE_INT8 dims: 5", "does not run on its warm-up 'w'"),
        (ZEROS % "dims: 5", "without a datatype"),
        (ZEROS % "data_type: TYPE_FP32 dims: -5", "of an impossible shape"),
        (ZEROS % "data_type: TYPE_FP32 dims: 1152921504606846976", "of an impossible shape"),
        (ZEROS % "data_type: TYPE_FP32", "does not run on its warm-up 'w'"),
    ],
)
def test_a_warm_up_that_cannot_be(tmp_path: Path, text: str, words: str) -> None:
    """A sample that the model does not take is a mistake in the configuration."""
    with pytest.raises(BadModelError, match=words):
        as_told(tmp_path, text)


def write_huge(path: Path) -> Path:
    """A small file that asks for 64 TiB when it runs."""
    nodes = [
        helper.make_node("Constant", [], ["shape"], value_ints=[2**22, 2**22]),
        helper.make_node("ConstantOfShape", ["shape"], ["zeros"]),
        helper.make_node("Add", ["zeros", "x"], ["y"]),
    ]
    value = [TensorProto.FLOAT, [1, 1]]
    return write_model(path, nodes, [("x", *value)], [("y", TensorProto.FLOAT, [2**22, 2**22])])


def test_a_model_that_needs_too_much_is_refused(tmp_path: Path) -> None:
    """Memory that runs out in the first run is a model that does not fit, not an error for each request."""
    session = Session.open(write_huge(tmp_path / "model.onnx"), "cpu")
    whole = Signature((TensorSpec("x", "FP32", (1, 1)),), (), 0)
    with pytest.raises(BadModelError, match=r"model\.onnx does not fit: memory runs out"):
        warmup.warm_up(session, whole, (), "model")


@pytest.mark.parametrize(
    ("dims", "words"),
    [
        ("[4000000000, 4000000000]", "m, version 1, does not fit: its input 'x' of shape"),
        ("[400000, 400000]", "m, version 1, does not fit: its input 'x' of shape"),
        ("[7, -5]", "says dims [7, -5]: a size is 0 or more"),
        ("[0, -5]", "says dims [0, -5]: a size is 0 or more"),
    ],
)
def test_sizes_that_cannot_be(tmp_path: Path, dims: str, words: str) -> None:
    """Sizes in the configuration of which no array can be made are a mistake, told in words."""
    path = write_identity(tmp_path / "m" / "1" / "model.onnx", ("n", "h", "w"))
    text = f"max_batch_size: 1 input {{ name: 'x' data_type: TYPE_FP32 dims: {dims} }}"
    (tmp_path / "m" / "config.pbtxt").write_text(text)
    files = repository.read_model(path.parents[1])
    with pytest.raises(BadModelError, match=re.escape(words)):
        ModelOnDisk.load(files, files.candidates[0].read(), ServerSettings(models=tmp_path, provider="cpu"))


def test_weights_larger_than_memory_are_refused(tmp_path: Path, zoonnx: Zoonnx) -> None:
    """The server says so in a sentence before it reads them."""
    path = write_identity(tmp_path / "models" / "big" / "1" / "model.onnx")
    os.truncate(path.parent / "model.onnx", 2**42)  # sparse: takes no room
    done = zoonnx("serve", tmp_path / "models", "--provider", "cpu", "--grpc-port", 0)
    assert (done.returncode, done.stdout) == (2, "")
    assert "does not fit: its weights take 4194304 MiB, and" in done.stderr


def test_memory_of_a_container_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A container's own limit is the smaller one; files that it has cached give way."""
    monkeypatch.setattr(memory, "GROUP", tmp_path)
    (tmp_path / "memory.max").write_text("5000000\n")
    (tmp_path / "memory.current").write_text("4000000\n")
    (tmp_path / "memory.stat").write_text("anon 1000000\ninactive_file 2000000\nactive_file 500000\n")
    assert memory.available_bytes() == 3_500_000
    (tmp_path / "memory.max").write_text("max\n")
    assert memory.available_bytes() == pytest.approx(memory.meminfo_bytes()["MemAvailable"], rel=0.2)


class TestPadding:
    """Batches are filled up to a bucket, and nobody notices."""

    @pytest.mark.parametrize(("count", "size"), [(1, 1), (3, 4), (5, 6), (6, 6)])
    def test_a_batch_is_filled_up(self, count: int, size: int) -> None:
        """The model sees a bucket's size; each request gets its rows, and the counts are of those."""

        async def main() -> None:
            model, statistics = Model(), Statistics()
            batcher = Batcher(model.run, BatchSettings(6, buckets=BUCKETS), statistics)
            answer = await batcher.submit(rows(*range(count)), count, NONE)
            await batcher.close()
            assert answer["y"][:, 0].tolist() == [2.0 * each for each in range(count)]
            assert [each for each, _ in model.batches] == [size]
            assert (statistics.inferences, list(statistics.batches)) == (count, [count])

        asyncio.run(main())

    def test_a_layer_without_rows_is_run_as_it_is(self) -> None:
        """What has no row for each row that went in is computed again, for each request without filling up."""

        async def main() -> None:
            model = Model()
            batcher = Batcher(model.run, BatchSettings(6, buckets=BUCKETS), Statistics())
            (task,) = await begin(batcher, (rows(1, 2, 3, 4, 5), frozenset({"constant"})))
            answer = await task
            await batcher.close()
            assert [each for each, _ in model.batches] == [6, 5]
            assert answer["constant"].tolist() == [0, 1, 2, 3]

        asyncio.run(main())
