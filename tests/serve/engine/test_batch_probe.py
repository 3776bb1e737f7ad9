"""Trial runs that find out whether a model without a configuration accepts batches."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
import tritonclient.grpc
from onnx import TensorProto, helper, numpy_helper
from tritonclient.utils import InferenceServerException

from protos import inference
from serve.engine import batch_probe
from serve.engine.session import Session
from tests.conftest import Zoonnx
from tests.serve.conftest import Serve, Value, write_identity, write_model

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64
Model = tuple[Sequence[onnx.NodeProto], Sequence[Value], Sequence[Value]]
X, Y = ("x", FLOAT, ["n", 3]), ("y", FLOAT, ["n", 3])
node = helper.make_node


def constant(name: str, values: object) -> onnx.NodeProto:
    return node("Constant", [], [name], value=numpy_helper.from_array(np.asarray(values), name))


# name: the model, and a part of the reason
UNBATCHED: dict[str, tuple[Model, str]] = {
    "runs on one row only": (
        (
            [
                constant("first", [0]),
                constant("last", [1]),
                constant("limit", np.float32(-1)),
                node("Squeeze", ["x", "first"], ["v"]),
                node("Unsqueeze", ["v", "first"], ["u"]),
                node("ReduceSumSquare", ["u", "last"], ["s"], keepdims=0),
                node("Greater", ["s", "limit"], ["on"]),
                node("Compress", ["u", "on"], ["y"], axis=0),
            ],
            [X],
            [("y", FLOAT, ["k", 3])],
        ),
        "it runs on one row, but not on 4",
    ),
    "indices of the positive numbers": (
        (
            [node("Relu", ["x"], ["r"]), node("NonZero", ["r"], ["i"]), node("Transpose", ["i"], ["y"])],
            [X],
            [("y", INT64, ["k", 2])],
        ),
        "its output 'y'",
    ),
    "indices of the positive numbers of one column": (
        (
            [node("NonZero", ["x"], ["i"]), node("Transpose", ["i"], ["y"])],
            [("x", FLOAT, ["n", 1])],
            [("y", INT64, ["k", 2])],
        ),
        "a row of its output 'y' depends on the other rows",
    ),
    "rows that meet a condition": (
        (
            [
                constant("one", [1]),
                node("ReduceSum", ["x", "one"], ["s"], keepdims=0),
                constant("zero", np.float32(0)),
                node("Greater", ["s", "zero"], ["on"]),
                node("Compress", ["x", "on"], ["y"], axis=0),
            ],
            [X],
            [("y", FLOAT, ["k", 3])],
        ),
        "its output 'y'",
    ),
    "a softmax over the batch": (([node("Softmax", ["x"], ["y"], axis=0)], [X], [Y]), "depends on the other rows"),
    "minus the largest of the batch": (
        ([node("ReduceMax", ["x"], ["top"], keepdims=0), node("Sub", ["x", "top"], ["y"])], [X], [Y]),
        "a row of its output 'y' depends on the other rows of the batch",
    ),
    "random numbers": (([node("RandomNormalLike", ["x"], ["y"])], [X], [Y]), "depends on the other rows"),
    "needs another size": (
        (
            [constant("w", np.ones((7, 2), np.float32)), node("MatMul", ["x", "w"], ["y"])],
            [("x", FLOAT, ["n", "k"])],
            [("y", FLOAT, ["n", 2])],
        ),
        "it does not run on the sizes and values that were tried",
    ),
    "too large to try": (
        ([node("Identity", ["x"], ["y"])], [("x", FLOAT, ["n", 2**40])], [("y", FLOAT, ["n", 2**40])]),
        "it does not run on the sizes and values that were tried",
    ),
}
BATCHED: dict[str, Model] = {
    "images of any size": (
        [
            constant("w", np.ones((2, 3, 3, 3), np.float32) / 27),
            node("Conv", ["x", "w"], ["c"]),
            node("GlobalAveragePool", ["c"], ["y"]),
        ],
        [("x", FLOAT, ["n", 3, "h", "w"])],
        [("y", FLOAT, ["n", 2, 1, 1])],
    ),
    "images of one size with dynamic dimensions": (
        [
            constant("shape", [-1, 3 * 224 * 224]),
            node("Reshape", ["x", "shape"], ["r"]),
            constant("axis", [1]),
            node("ReduceMean", ["r", "axis"], ["y"], keepdims=1),
        ],
        [("x", FLOAT, ["n", 3, "h", "w"])],
        [("y", FLOAT, ["n", 1])],
    ),
    "a table": (
        [constant("table", np.eye(10, dtype=np.float32)), node("Gather", ["table", "x"], ["y"])],
        [("x", INT64, ["n", "length"])],
        [("y", FLOAT, ["n", "length", 10])],
    ),
    "two inputs": ([node("Add", ["a", "b"], ["y"])], [("a", FLOAT, ["n", 1]), ("b", FLOAT, ["n", 3])], [Y]),
    "a square root of negative numbers": ([node("Sqrt", ["x"], ["y"])], [X], [Y]),
    "a division by zero": ([constant("zero", np.float32(0)), node("Div", ["x", "zero"], ["y"])], [X], [Y]),
}


def probe(path: Path, caplog: pytest.LogCaptureFixture) -> tuple[int, str]:
    """Return the largest batch of a model, and what was logged."""
    batch = batch_probe.max_batch_size(Session.open(path, "cpu"), None, 8, "m")
    return batch, "".join(record.getMessage() for record in caplog.records if record.levelname == "WARNING")


@pytest.mark.parametrize("name", UNBATCHED)
def test_models_that_are_not_batched(tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str) -> None:
    """A model is not batched unless its rows are independent; the log has the reason."""
    model, reason = UNBATCHED[name]
    batch, text = probe(write_model(tmp_path / "model.onnx", *model), caplog)
    assert batch == 0
    assert text.startswith("m is served without batches: ")
    assert reason in text


@pytest.mark.parametrize("name", BATCHED)
def test_models_that_are_batched(tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str) -> None:
    """A model whose rows are independent is batched, whatever its other dimensions are."""
    assert probe(write_model(tmp_path / "model.onnx", *BATCHED[name]), caplog) == (8, "")


@pytest.mark.parametrize(
    "kind", ["FLOAT", "FLOAT16", "BFLOAT16", "DOUBLE", "INT8", "UINT8", "INT32", "UINT64", "BOOL", "STRING"]
)
def test_every_datatype(tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: str) -> None:
    """Inputs of every datatype can be tried."""
    path = write_identity(tmp_path / "model.onnx", ("n", 2), getattr(TensorProto, kind))
    assert probe(path, caplog) == (8, "")


@pytest.mark.parametrize("config", [None, inference.ModelConfig(default_model_filename="model.onnx")])
def test_limit(tmp_path: Path, config: inference.ModelConfig | None) -> None:
    """The limit is that of the server; 0 serves without batches, and a configuration overrides it."""
    session = Session.open(write_identity(tmp_path / "model.onnx"), "cpu")
    assert [batch_probe.max_batch_size(session, config, limit, "m") for limit in (0, 1, 32)] == [0, 1, 32]
    configured = inference.ModelConfig(max_batch_size=2)
    assert batch_probe.max_batch_size(session, configured, 32, "m") == 0


def test_a_fixed_size_is_not_tried(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A graph without a symbolic first dimension needs no trial run, and nothing is logged."""
    assert probe(write_identity(tmp_path / "model.onnx", (2, 3)), caplog) == (0, "")


def test_max_batch(serve: Serve, tmp_path: Path) -> None:
    """`serve --max-batch` sets the largest batch of a bare model; the error of a larger one names the option."""
    path = write_identity(tmp_path / "m.onnx")
    with serve(path, "--grpc-port", 0, "--provider", "cpu", "--max-batch", 6) as process:
        assert process.stdout
        with tritonclient.grpc.InferenceServerClient(process.stdout.readline().split()[-1]) as client:
            assert client.get_model_config("m").config.max_batch_size == 6
            tensor = tritonclient.grpc.InferInput("x", [7, 3], "FP32")
            tensor.set_data_from_numpy(np.ones((7, 3), np.float32))
            with pytest.raises(InferenceServerException, match=r"between 1 and 6; got 7\..* --max-batch\."):
                client.infer("m", [tensor])


def test_invalid_max_batch(zoonnx: Zoonnx, tmp_path: Path) -> None:
    """A negative size is a user error."""
    done = zoonnx("serve", write_identity(tmp_path / "m.onnx"), "--max-batch", -1)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "(--max-batch) must be from 0 to 2147483647; got -1" in done.stderr
