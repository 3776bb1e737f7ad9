"""The passes over a converted graph."""

import importlib
import inspect
import pkgutil

import onnx
import pytest
from onnx import TensorProto, helper

from export.convert import passes
from export.convert.convert import PASSES
from export.convert.passes.graph_pass import Conversion, GraphPass
from export.convert.passes.opset import check_opset
from export.convert.passes.outputs import drop_tap_outputs, name_outputs
from export.convert.passes.pads import keep_pads
from export.convert.passes.sizes import name_sizes
from export.errors import ConversionError

CONVERSION = Conversion(opset=20, output_names=("logits",), taps=("conv",))


@pytest.fixture
def model() -> onnx.ModelProto:
    """Return a model with one output of the network, and one of a tap."""
    infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 4]) for name in ("x", "y", "tap")]
    nodes = [helper.make_node("Relu", ["x"], ["tap"]), helper.make_node("Neg", ["tap"], ["y"])]
    graph = helper.make_graph(nodes, "graph", infos[:1], infos[1:])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])


@pytest.mark.parametrize("graph_pass", PASSES)
def test_contract_of_each_pass(graph_pass: GraphPass) -> None:
    """The docstring of each pass states what it requires and ensures."""
    assert all(word in (graph_pass.__doc__ or "") for word in ("Requires: ", "Ensures: "))


def test_every_pass_runs() -> None:
    """Every public function of the modules of export.convert.passes is in PASSES."""
    modules = [
        importlib.import_module(f"{passes.__name__}.{info.name}") for info in pkgutil.iter_modules(passes.__path__)
    ]
    functions = [function for module in modules for function in vars(module).values() if inspect.isfunction(function)]
    own = {function for function in functions if function.__module__.startswith(passes.__name__)}
    assert {function.__name__ for function in own if not function.__name__.startswith("_")} == {
        graph_pass.__name__ for graph_pass in PASSES
    }


def test_wrong_opset(model: onnx.ModelProto) -> None:
    """A model with another opset than requested is rejected."""
    check_opset(model, CONVERSION)
    model.opset_import[0].version = 18
    with pytest.raises(ConversionError, match="opset 20 was requested, but this torch wrote opset 18"):
        check_opset(model, CONVERSION)


def test_outputs(model: onnx.ModelProto) -> None:
    """Without the outputs of taps, the others get their names; a wrong number of outputs is rejected."""
    with pytest.raises(ConversionError, match=r"returns 1 tensors, but torch.onnx wrote a model with 2 outputs"):
        name_outputs(model, CONVERSION)
    drop_tap_outputs(model, CONVERSION)
    name_outputs(model, CONVERSION)
    assert [output.name for output in model.graph.output] == ["logits"]
    assert [list(node.output) for node in model.graph.node] == [["tap"], ["logits"]]


def test_axes_of_pads() -> None:
    """A Pad before a MaxPool gets all axes as an input; a Pad with axes is unchanged."""
    pad = helper.make_node("Pad", ["x", "pads"], ["padded"])
    pool = helper.make_node("MaxPool", ["padded"], ["y"], kernel_shape=[2, 2])
    model = helper.make_model(helper.make_graph([pad, pool], "graph", [], []))
    for _ in range(2):
        keep_pads(model, CONVERSION)
        assert list(model.graph.node[0].input) == ["x", "pads", "", "padded/axes"]
        (axes,) = model.graph.initializer
        assert onnx.numpy_helper.to_array(axes).tolist() == [0, 1, 2, 3]


def test_sizes() -> None:
    """Dimensions are expressed by height and width, not by the dimensions of which these are multiples."""
    shapes = (["batch", "4*height_part", "width"], ["2*height_part", "4*height_part + 1", "14*height_part"])
    infos = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in zip("xy", shapes, strict=True)
    ]
    model = helper.make_model(helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", infos[:1], infos[1:]))
    name_sizes(model, CONVERSION)
    dims = [
        [dim.dim_param for dim in info.type.tensor_type.shape.dim] for info in (*model.graph.input, *model.graph.output)
    ]
    assert dims == [["batch", "height", "width"], ["2*(height//4)", "height + 1", "14*(height//4)"]]
