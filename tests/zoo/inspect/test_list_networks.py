"""`zoonnx models`: networks by name, and their properties."""

import json

import pytest
import timm

from zoo import CATALOG
from zoo.errors import UnknownNetworkError
from zoo.inspect.list_networks import network_entries


def test_all_networks():
    """The catalog comes first, then all of timm's networks, each once and without costs."""
    rows = network_entries("*", pretrained=False)
    names = [row["network"] for row in rows]
    assert names[: len(CATALOG)] == list(CATALOG)
    assert set(names) == {*CATALOG, *timm.list_models()}
    assert len(names) == len(set(names))
    assert "parameters" not in rows[0]


def test_short_list_has_costs():
    """A short list has the exact parameters and MACs of each network."""
    (convnet4,), (resnet18,) = (
        network_entries("convnet4", pretrained=False),
        network_entries("resnet18", pretrained=False),
    )
    assert (convnet4["parameters"], convnet4["from"], convnet4["weights"]) == (65_834, "zoonnx", None)
    assert (resnet18["parameters"], resnet18["MACs"], resnet18["licence"]) == (11_689_512, 1_814_073_344, "apache-2.0")


def test_pretrained_has_one_row_per_set_of_weights():
    """Each row has timm's name of the weights, and their licence."""
    rows = network_entries("mobilenetv3_small_*", pretrained=True)
    assert [row["network"] for row in rows] == timm.list_models("mobilenetv3_small_*", pretrained=True)
    assert all(row["weights"] and row["licence"] for row in rows)


def test_nothing_matches():
    """A pattern that matches nothing raises an error that suggests a similar name."""
    with pytest.raises(UnknownNetworkError, match="did you mean 'resnet18'"):
        network_entries("resnt18", pretrained=False)


def test_command(command):
    """The command prints JSON, or a table and the number of networks; an unknown name fails with one line."""
    assert json.loads(command("models", "convnet4", "--json").out) == network_entries("convnet4", pretrained=False)
    assert command("models", "convnet4").out.endswith("1 network\n")
    missing = command("models", "convnet_4")
    assert (missing.status, missing.err.count("\n")) == (2, 1)
