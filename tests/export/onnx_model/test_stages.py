"""Runs of a model a few nodes at a time."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from export.arrays import Array
from export.onnx_model.runtime import Runtime, value_names
from export.onnx_model.stages import StagedRuntime

X = np.random.default_rng(0).standard_normal((2, 512), np.float32)


def model_of(nodes: list[onnx.NodeProto], weights: dict[str, Array] | None = None) -> onnx.ModelProto:
    """Return a model with the input `x` and the output `y`."""
    tensors = [numpy_helper.from_array(array, name) for name, array in (weights or {}).items()]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 512]) for name in "xy")
    graph = helper.make_graph(nodes, "graph", [x], [y], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def chain() -> onnx.ModelProto:
    """Return a model in which later nodes use values of earlier ones, integers, a weight and a condition."""
    branch = helper.make_graph(
        [helper.make_node("Neg", ["c"], ["inner"])],
        "branch",
        [],
        [helper.make_tensor_value_info("inner", TensorProto.FLOAT, None)],
    )
    nodes = [
        helper.make_node("Mul", ["x", "w"], ["a"]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Shape", ["a"], ["shape"]),
        helper.make_node("Add", ["b", "x"], ["c"]),
        helper.make_node("If", ["flag"], ["d"], then_branch=branch, else_branch=branch),
        helper.make_node("Reshape", ["d", "shape"], ["e"]),
        helper.make_node("Add", ["e", "a"], ["y"]),
    ]
    return model_of(nodes, {"w": np.linspace(-1, 1, 512, dtype=np.float32), "flag": np.array(True)})


def sequence() -> onnx.ModelProto:
    """Return a model with a value that is no tensor."""
    nodes = [
        helper.make_node("SplitToSequence", ["x"], ["parts"], axis=0),
        helper.make_node("Relu", ["x"], ["a"]),
        helper.make_node("ConcatFromSequence", ["parts"], ["y"], axis=0),
    ]
    return model_of(nodes)


@pytest.mark.parametrize("nodes", [1, 2, 3, 100])
def test_all_values(nodes: int) -> None:
    """Each value is yielded once, in order, and equals that of one run of the whole model."""
    model = chain()
    whole = Runtime(model, value_names(model), optimise=False).run({"x": X})
    stages = [dict(values) for values in StagedRuntime(model, nodes).run({"x": X})]
    assert len(stages) == -(-7 // nodes)
    names = [name for values in stages for name in values]
    assert names == value_names(model)
    for name, value in ((name, value) for values in stages for name, value in values.items()):
        np.testing.assert_array_equal(value, whole[name])


def test_runs_again() -> None:
    """A second run, with another batch size, has the values of its own inputs."""
    runtime = StagedRuntime(chain(), 2)
    list(runtime.run({"x": X}))
    values = {name: value for stage in runtime.run({"x": X[:1] * 2}) for name, value in stage.items()}
    np.testing.assert_array_equal(values["y"], Runtime(chain()).run({"x": X[:1] * 2})["y"])


def test_values_are_not_kept() -> None:
    """When a stage is computed, the values of the stage before are freed."""
    stages = StagedRuntime(chain(), 2).run({"x": X})
    first = next(stages)
    assert list(first) == ["a", "b"]
    next(stages)
    assert first == {}


def test_sequences() -> None:
    """A model with sequences runs as one stage, which yields its tensors only."""
    (values,) = [dict(values) for values in StagedRuntime(sequence(), 1).run({"x": X})]
    assert list(values) == ["a", "y"]
    np.testing.assert_array_equal(values["y"], X)
