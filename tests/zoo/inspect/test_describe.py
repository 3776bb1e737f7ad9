"""`zoonnx describe`: the table, its JSON, and what an export adds."""

import json

import pytest

from export import ExportSettings, export_model
from zoo import CATALOG, load_network
from zoo.inspect import describe
from zoo.inspect.target import subject_of


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """An export of convnet4, and the manifest's layer map."""
    repository = tmp_path_factory.mktemp("models")
    export_model(load_network("convnet4"), ExportSettings(to=repository, name="convnet4"))
    folder = repository / "convnet4"
    return folder, json.loads((folder / "1" / "manifest.json").read_text())["layer_map"]["layers"]


def test_the_table_through_a_pipe(command):
    """Every layer has one whole line: kind, window, output, parameters, MACs, receptive field, legality."""
    said = command("describe", "resnet18")
    assert (said.status, said.err) == (0, "")
    rows = {line.split()[0]: line.split()[1:] for line in said.out.splitlines() if line.strip()}
    assert rows["conv1"] == ["Conv2d", "7", "s2", "p3", "64x112x112", "9,408", "118", "M", "7", "pad", "1"]
    assert rows["layer2.0.downsample.0"][-2:] == ["drops", "1"]
    assert rows["layer4.1.act2"] == ["ReLU", "512x7x7", "0", "0", "435"]
    assert rows["fc"] == ["Linear", "1000", "513,000", "512", "k", "all"]
    assert "11,689,512 parameters, 1,814,073,344 MACs (1.81 G)" in said.out
    assert "strides: 13 exact, 5 leave out only padding, 3 drop input rows: layer2.0.downsample.0 (1)" in said.out


def test_json_has_the_numbers():
    """Sizes with the batch, the field along each axis, and the stride's verdict."""
    subject = subject_of("convnet4")
    found = json.loads(json.dumps(describe.as_json(subject, subject.geometry(), depth=None)))
    layers = {layer["name"]: layer for layer in found["layers"]}
    assert (found["parameters"], found["macs"], found["unknown_operations"]) == (65_834, 1_493_632, {})
    assert layers["pool"]["stride"] == {"fit": "exact", "unused_rows": 0, "lost_rows": 0}
    assert layers["pool"]["outputs"] == [[1, 32, 4, 4]]
    assert (
        layers["conv4"]["receptive_field"]
        == [{"size": 14, "jump": 2, "start": -6, "units": 4, "whole": False, "exact": True}] * 2
    )


@pytest.mark.parametrize(("depth", "expected"), [(0, 0), (1, 14), (None, 20)])
def test_depth(depth, expected):
    """How many dots deep a path may be, plus one."""
    subject = subject_of("convnet4")
    rows = describe.as_table(subject, subject.geometry(), depth).row_count
    assert rows == expected == len(describe.as_json(subject, subject.geometry(), depth)["layers"])


def test_an_export_shows_what_became_of_each_layer(command, exported):
    """The names are those of its layer map, and each row tells its status."""
    folder, layers = exported
    subject = subject_of(str(folder))
    found = describe.as_json(subject, subject.geometry(), depth=None)["layers"]
    expected = {layer.get("name", ""): layer["status"] for layer in layers if layer.get("path")}
    assert {layer["name"]: layer["export"] for layer in found} == expected
    assert "folded into bn1" in command("describe", folder).out


def test_unknown_operations_are_counted_not_guessed():
    """A network that sorts its pixels: its sizes and fields are unknown from there on, and the summary says why."""
    from torch import nn

    from zoo.inspect.target import Subject

    class Sorting(nn.Module):
        def forward(self, x):
            return x.sort(dim=-1)[0] + 1

    subject = Subject("sorting", "sorting", Sorting(), (1, 4, 4))
    geometry = subject.geometry((1, 4, 4))
    assert (geometry.layers[0].output, geometry.layers[0].fields, geometry.unknown) == (None, None, {"sort": 1})
    assert describe.summary(subject, geometry)[-1].startswith("unknown operations, and so unknown from there on: sort")


@pytest.mark.parametrize("name", CATALOG)
def test_every_net_of_the_catalog(name):
    """Its own input size fits every stride, no operation is unknown, and every called layer has a row."""
    subject = subject_of(name)
    geometry = subject.geometry()
    lines = describe.summary(subject, geometry)
    assert describe.as_table(subject, geometry, None).row_count == len(geometry.layers) - 1
    assert [line.partition(" ")[0].rstrip(",:") for line in lines] == [name, "activations", "receptive", "strides"]
    assert lines[-1].endswith("0 drop input rows")
