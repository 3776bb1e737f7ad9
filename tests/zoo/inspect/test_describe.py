"""`zoonnx describe`: the table, the JSON data, and the column for exported models."""

import json
import re

import pytest

from export import ExportSettings, export_model
from zoo import CATALOG, LoadedNetwork, load_network
from zoo.catalog import create_model
from zoo.inspect import describe
from zoo.inspect.target import find_target
from zoo.networks.preprocessing import Preprocessing
from zoo.runs.load import WeightsSource


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Return the folder of an exported convnet4, and the layers of its layer map."""
    repository = tmp_path_factory.mktemp("models")
    export_model(load_network("convnet4"), ExportSettings(to=repository, name="convnet4"))
    folder = repository / "convnet4"
    return folder, json.loads((folder / "1" / "manifest.json").read_text())["layer_map"]["layers"]


def test_table_in_a_pipe(command):
    """Every layer has one line: kind, window, output, parameters, MACs, receptive field and stride."""
    printed = command("describe", "resnet18")
    assert (printed.status, printed.err) == (0, "")
    rows = {line.split()[0]: line.split()[1:] for line in printed.out.splitlines() if line.strip()}
    assert rows["conv1"] == ["Conv2d", "7", "s2", "p3", "64x112x112", "9,408", "118", "M", "7", "pad", "1"]
    assert rows["layer2.0.downsample.0"][-2:] == ["drops", "1"]
    assert rows["layer4.1.act2"] == ["ReLU", "512x7x7", "0", "0", "435"]
    assert rows["fc"] == ["Linear", "1000", "513,000", "512", "k", "all"]
    assert "11,689,512 parameters, 1,814,073,344 MACs (1.81 G)" in printed.out
    assert "strides: 13 exact, 5 skip only padding, 3 drop input rows: layer2.0.downsample.0 (1)" in printed.out


def test_json_has_the_numbers():
    """JSON has shapes with the batch, the receptive field along each axis, and whether the stride is exact."""
    target = find_target("convnet4")
    description = json.loads(json.dumps(describe.as_json(target, target.geometry(), depth=None)))
    layers = {layer["name"]: layer for layer in description["layers"]}
    totals = (description["parameters"], description["macs"], description["unknown_operations"])
    assert totals == (65_834, 1_493_632, {})
    assert layers["pool"]["stride"] == {"fit": "exact", "unused_rows": 0, "lost_rows": 0}
    assert layers["pool"]["outputs"] == [[1, 32, 4, 4]]
    assert (
        layers["conv4"]["receptive_field"]
        == [{"size": 14, "jump": 2, "start": -6, "units": 4, "whole": False, "exact": True}] * 2
    )


@pytest.mark.parametrize(("depth", "expected"), [(0, 0), (1, 14), (None, 20)])
def test_depth(depth, expected):
    """`depth` limits the number of parts of a layer's path."""
    target = find_target("convnet4")
    rows = describe.as_table(target, target.geometry(), depth).row_count
    assert rows == expected == len(describe.as_json(target, target.geometry(), depth)["layers"])


def test_exported_model_has_the_status_of_each_layer(command, exported):
    """For an exported model, each row has the name and the status of its layer in the layer map."""
    folder, layers = exported
    target = find_target(str(folder))
    described = describe.as_json(target, target.geometry(), depth=None)["layers"]
    expected = {layer.get("name", ""): layer["status"] for layer in layers if layer.get("path")}
    assert {layer["name"]: layer["export"] for layer in described} == expected
    assert "folded into bn1" in command("describe", folder).out


def loaded_at(name, size):
    """Return a network with random weights for images of `size` x `size` pixels."""
    network = create_model(name, num_classes=3, img_size=(size, size)).eval()
    return LoadedNetwork(network, name, name, (), Preprocessing.from_network(network), WeightsSource("random", seed=0))


@pytest.mark.parametrize(
    ("name", "size", "options"),
    [
        ("lenet5", 28, {}),
        ("lenet5", 28, {"raw": True}),
        ("allconv", 32, {"raw": True, "dynamic_size": True}),
        ("test_vit", 32, {}),
        ("repvgg_a0", 32, {}),
    ],
)
def test_a_layer_has_one_name_everywhere(tmp_path, name, size, options):
    """`describe`, the manifest and the report of an exported model list the same layers, each once."""
    exported = export_model(loaded_at(name, size), ExportSettings(to=tmp_path / "models", name="m", **options))
    names = sorted(layer.name for layer in exported.manifest.layer_map.layers if layer.path)
    target = find_target(str(tmp_path / "models" / "m"))
    description = describe.as_json(target, target.geometry(), depth=None)
    table = describe.as_table(target, target.geometry(), depth=None)
    section = exported.report.read_text().partition("## Layers")[2].partition("## Time")[0]
    rows = re.findall(r"^\| (\S+) \|", section, re.MULTILINE)[2:]
    assert sorted(layer["name"] for layer in description["layers"]) == names
    assert sorted(str(cell) for cell in table.columns[0].cells) == names
    assert sorted(rows) == names
    assert description["input_size"][1:] == [size, size]


def test_layers_that_only_the_file_has(tmp_path):
    """The sum of a block's branches follows the network's layers, with its shape and status; the rest is unknown."""
    exported = export_model(loaded_at("repvgg_a0", 32), ExportSettings(to=tmp_path, name="m"))
    target = find_target(str(exported.folder))
    described = {layer["name"]: layer for layer in describe.as_json(target, target.geometry(), None)["layers"]}
    sum_ = described["stem.reparam_conv"]
    assert (sum_["kind"], sum_["outputs"], sum_["parameters"], sum_["export"]) == (
        "Conv2d",
        [[1, 48, 16, 16]],
        None,
        "EXACT",
    )
    assert "layers that the export made of several" in describe.summary(target, target.geometry())[-1]


def test_unknown_operations_are_counted():
    """After an operation without a rule, sizes and fields are unknown, and the summary names the operation."""
    from torch import nn

    from zoo.inspect.target import InspectionTarget

    class Sorting(nn.Module):
        def forward(self, x):
            return x.sort(dim=-1)[0] + 1

    target = InspectionTarget("sorting", "sorting", Sorting(), (1, 4, 4))
    geometry = target.geometry((1, 4, 4))
    assert (geometry.layers[0].output, geometry.layers[0].fields, geometry.unknown) == (None, None, {"sort": 1})
    last_line = describe.summary(target, geometry)[-1]
    assert last_line == "unknown operations, after which sizes and fields are unknown too: sort (1)"


@pytest.mark.parametrize("name", CATALOG)
def test_catalog_networks(name):
    """At its default input size no stride drops rows, no operation is unknown, and every called layer has a row."""
    target = find_target(name)
    geometry = target.geometry()
    lines = describe.summary(target, geometry)
    assert describe.as_table(target, geometry, None).row_count == len(geometry.layers) - 1
    assert [line.partition(" ")[0].rstrip(",:") for line in lines] == [name, "activations", "receptive", "strides"]
    assert lines[-1].endswith("0 drop input rows")
