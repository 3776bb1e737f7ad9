"""Tests of models without a configuration, built by other tools, with a stock client."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc
from onnx import NodeProto, TensorProto, helper
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from tests.serve.conftest import Serve, Value, write_model

FLOAT, STRING, INT64 = TensorProto.FLOAT, TensorProto.STRING, TensorProto.INT64
Array = np.ndarray[Any, Any]


def node(kind: str, inputs: str, outputs: str, **attributes: Any) -> NodeProto:
    return helper.make_node(kind, inputs.split(), outputs.split(), **attributes)


MODELS: dict[str, tuple[list[NodeProto], list[Value], list[Value]]] = {
    "fixed": ([node("Relu", "x", "y")], [("x", FLOAT, [1, 3, 2, 2])], [("y", FLOAT, [1, 3, 2, 2])]),
    "scalar_output": ([node("ReduceSum", "x", "y", keepdims=0)], [("x", FLOAT, ["n", 3])], [("y", FLOAT, [])]),
    "scalar_input": (
        [node("Add", "x s", "y")],
        [("x", FLOAT, ["n", 3]), ("s", FLOAT, [])],
        [("y", FLOAT, ["n", 3])],
    ),
    "ranks": (
        [node("MatMul", "a b", "y")],
        [("a", FLOAT, ["n", 2, 3]), ("b", FLOAT, ["n", 3, 1])],
        [("y", FLOAT, ["n", 2, 1])],
    ),
    "lengths": (
        [node("Concat", "a b", "y", axis=0)],
        [("a", FLOAT, ["n", 2]), ("b", FLOAT, ["m", 2])],
        [("y", FLOAT, ["k", 2])],
    ),
    "strings": (
        [node("Identity", "s", "t"), node("Identity", "x", "y")],
        [("s", STRING, ["n"]), ("x", FLOAT, ["n"])],
        [("t", STRING, ["n"]), ("y", FLOAT, ["n"])],
    ),
    "any_size": (
        [node("GlobalAveragePool", "x", "y")],
        [("x", FLOAT, ["n", 3, "h", "w"])],
        [("y", FLOAT, ["n", 3, 1, 1])],
    ),
    "no_input": ([node("Constant", "", "y", value_floats=[1.0, 2.0])], [], [("y", FLOAT, [2])]),
    "nonzero": ([node("NonZero", "x", "y")], [("x", FLOAT, ["n", 3])], [("y", INT64, [2, "k"])]),
    "odd names": ([node("Identity", "in:0", "out/put")], [("in:0", FLOAT, ["n"])], [("out/put", FLOAT, ["n"])]),
}


@pytest.fixture(scope="module")
def triton(serve: Serve, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A tritonclient client of a server with all of these models."""
    folder = tmp_path_factory.mktemp("foreign")
    for name, (nodes, inputs, outputs) in MODELS.items():
        write_model(folder / name / "1" / "model.onnx", nodes, inputs, outputs)
    with serve(folder, "--grpc-port", 0, "--provider", "cpu") as process:
        url = process.stdout.readline().split()[-1]
        with tritonclient.grpc.InferenceServerClient(url) as client:
            yield client


def infer(triton: Any, model: str, inputs: dict[str, Array]) -> dict[str, Array]:
    """Return all outputs by name."""
    tensors = []
    for name, array in inputs.items():
        tensors.append(tritonclient.grpc.InferInput(name, array.shape, np_to_triton_dtype(array.dtype)))
        tensors[-1].set_data_from_numpy(array)
    result = triton.infer(model, tensors)
    return {output.name: result.as_numpy(output.name) for output in result.get_response().outputs}


def ones(*shape: int) -> Array:
    return np.ones(shape, np.float32)


@pytest.mark.parametrize(
    ("model", "batch", "inputs", "outputs"),
    [
        ("fixed", 0, {"x": ones(1, 3, 2, 2)}, {"y": ones(1, 3, 2, 2)}),
        ("scalar_output", 0, {"x": ones(2, 3)}, {"y": np.array(6)}),
        ("scalar_input", 0, {"x": ones(2, 3), "s": np.array(2, np.float32)}, {"y": 3 * ones(2, 3)}),
        ("ranks", 4, {"a": ones(2, 2, 3), "b": ones(2, 3, 1)}, {"y": 3 * ones(2, 2, 1)}),
        ("lengths", 0, {"a": ones(1, 2), "b": ones(2, 2)}, {"y": ones(3, 2)}),
        (
            "strings",
            4,
            {"s": np.array([b"a", "ü".encode()], object), "x": ones(2)},
            {"t": np.array([b"a", "ü".encode()], object), "y": ones(2)},
        ),
        ("any_size", 4, {"x": ones(1, 3, 5, 7)}, {"y": ones(1, 3, 1, 1)}),
        ("any_size", 4, {"x": ones(2, 3, 2, 9)}, {"y": ones(2, 3, 1, 1)}),
        ("no_input", 0, {}, {"y": np.array([1, 2])}),
        ("nonzero", 0, {"x": ones(1, 3)}, {"y": np.array([[0, 0, 0], [0, 1, 2]])}),
        ("odd names", 4, {"in:0": ones(2)}, {"out/put": ones(2)}),
    ],
)
def test_it_is_served(triton: Any, model: str, batch: int, inputs: dict[str, Array], outputs: dict[str, Array]) -> None:
    """The configuration is derived: a model has batches only if all first dimensions are dynamic and of one name."""
    assert triton.get_model_config(model).config.max_batch_size == batch
    actual = infer(triton, model, inputs)
    assert {name: array.tolist() for name, array in actual.items()} == {
        name: array.tolist() for name, array in outputs.items()
    }


def test_a_fixed_size(triton: Any) -> None:
    """A graph of fixed shape rejects every other shape."""
    with pytest.raises(InferenceServerException, match=r"expects shape \[1, 3, 2, 2\]; got \[2, 3, 2, 2\]"):
        infer(triton, "fixed", {"x": ones(2, 3, 2, 2)})
