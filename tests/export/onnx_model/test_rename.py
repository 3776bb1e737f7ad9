"""The value of a layer in the ONNX model has the layer's name from PyTorch."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from torch import nn

from export import Exported, ExportSettings, export_model
from export.check.run import check_model
from export.convert.convert import convert
from export.convert.prepare import prepare
from export.interface.interface import ImageInterface
from export.onnx_model.rename import name_values
from export.onnx_model.runtime import Runtime, value_names
from export.reference.determinism import reference_runs
from export.variants.graph import interface_nodes
from export.verify.layer_map import map_layers
from protos import manifest
from zoo import LoadedNetwork
from zoo.networks.preprocessing import Preprocessing
from zoo.runs.load import WeightsSource

PREPROCESSING = Preprocessing(input_size=(3, 8, 8), mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4))


def values(model: onnx.ModelProto) -> list[str]:
    return [name for node in model.graph.node for name in node.output]


def test_values_are_named_after_layers(exported: Exported) -> None:
    """Every value between normalisation and logits, and its node, has the path of its layer."""
    model = onnx.load(exported.folder / "model.onnx")
    paths = ["bn1", "act1", "bn2", "act2", "pool", "bn3", "act3", "bn4", "act4"]
    assert values(model)[4:-1] == [*paths, "head.global_pool.pool", "head.global_pool.flatten", "logits"]
    named = {node.name: list(node.output) for node in model.graph.node}
    assert all(named[path] == [path] for path in paths)


def test_names_and_values_agree(exported: Exported) -> None:
    """The value of each layer is named after the layer, after an inner layer, or after the model's output."""
    for layer in exported.manifest.layer_map.layers:
        is_inner = layer.value.startswith(f"{layer.name}.")
        assert not layer.value or layer.value in (layer.name, layer.of, "logits") or is_inner, layer


def test_conflicting_names() -> None:
    """A layer gets its name even if another value has it; the other value is renamed."""

    class Crossed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.sigmoid = nn.Tanh()
            self.tanh = nn.Sigmoid()
            self.fc = nn.Linear(3 * 64, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.fc((self.sigmoid(x) + self.tanh(x).relu()).sigmoid().flatten(1))

    network = prepare(Crossed().eval())
    preprocessing = Preprocessing(input_size=(3, 8, 8), mean=(0.5,) * 3, std=(0.5,) * 3)
    interface = ImageInterface(preprocessing)
    model = interface.attach(convert(network, interface, 20))
    layer_map = map_layers(model, network, reference_runs(network, interface))
    image = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), np.uint8)
    before = Runtime(model).run({"image": image})
    name_values(model, layer_map)
    onnx.checker.check_model(model, full_check=True)
    after = Runtime(model, value_names(model), optimise=False).run({"image": image})
    x = preprocessing.normalise(torch.from_numpy(image))
    np.testing.assert_allclose(after["sigmoid"], x.tanh(), atol=1e-6)
    np.testing.assert_allclose(after["tanh"], x.sigmoid(), atol=1e-6)
    np.testing.assert_array_equal(after["logits"], before["logits"])
    assert len(set(values(model))) == len(values(model))


@pytest.mark.parametrize("path", ["x", "y", "w"])
def test_inputs_outputs_and_weights_keep_their_names(path: str) -> None:
    """A layer with the name of an input, an output or a weight does not replace that name."""
    nodes = [helper.make_node("Mul", ["x", "w"], ["a"]), helper.make_node("Neg", ["a"], ["y"])]
    infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy"]
    weight = onnx.numpy_helper.from_array(np.ones(1, np.float32), "w")
    graph = helper.make_graph(nodes, "g", infos[:1], infos[1:], [weight])
    model = helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 20)])
    layer_map = manifest.LayerMap(layers=[manifest.Layer(path=path, name=path, value="a", status=manifest.EXACT)])
    name_values(model, layer_map)
    assert values(model) == ["a", "y"]
    assert layer_map.layers[0].value == "a"


class InterfaceNames(nn.Module):
    """A network whose weights and layers have the names that an export uses around a network."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 5, 8)
        self.normalised = nn.Flatten()
        self.image_mean = nn.Parameter(torch.full((5,), 0.5))
        self.image_scale = nn.Parameter(torch.full((5,), 3.0))
        self.temperature = nn.Parameter(torch.tensor(2.0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (self.normalised(self.conv(x)) - self.image_mean) * self.image_scale / self.temperature


def test_names_around_the_network(tmp_path: Path) -> None:
    """The network is exported correctly, and the nodes of pre- and postprocessing are recognised."""
    weights = WeightsSource("trained", 0, metrics={"temperature": 1.5})
    network = LoadedNetwork(InterfaceNames().eval(), "frame", "Frame", (), PREPROCESSING, weights)
    exported = export_model(network, ExportSettings(to=tmp_path, name="n", calibrated=True))
    assert [failure for report in check_model(tmp_path / "n") for failure in report.failures] == []
    nodes = interface_nodes(onnx.load(exported.folder / "model.onnx"))
    assert nodes[:4] == ["image_nchw", "image_float", "image_centred", "normalised/unnamed"]
    assert nodes[4:] == ["logits_cooled", "probabilities"]


class Copies(nn.Module):
    """Returns the output of a ReLU under several names, of which some are those of layers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.relu = nn.ReLU()
        self.same = nn.Identity()
        self.other = nn.Identity()

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        y = self.relu(self.conv(x))
        return {"first": y, "relu": y, "same": self.same(y), "last": self.other(y)}


def test_an_output_with_the_name_of_the_layer_that_it_copies(tmp_path: Path) -> None:
    """An output that is a copy of a layer may have the layer's name; the layer is that output."""
    settings = ExportSettings(to=tmp_path, name="n", raw=True)
    exported = export_model(Copies().eval(), settings, preprocessing=PREPROCESSING)
    layers = {layer.name: layer for layer in exported.manifest.layer_map.layers}
    assert {name: layer.value for name, layer in layers.items()} == {
        "conv": "conv",
        "relu": "relu",
        "same": "same",
        "other": "relu",
    }
    assert (layers["other"].status, layers["other"].of) == (manifest.ALIAS, "relu")
    assert [failure for report in check_model(tmp_path / "n") for failure in report.failures] == []
