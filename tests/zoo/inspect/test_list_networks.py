"""`zoonnx models`: names by pattern, and what is known of each."""

import json

import pytest
import timm

from zoo import CATALOG
from zoo.errors import UnknownNetworkError
from zoo.inspect.list_networks import model_rows


def test_everything():
    """Ours first, then all of timm's, each once; too many to build."""
    rows = model_rows("*", pretrained=False)
    names = [row["network"] for row in rows]
    assert names[: len(CATALOG)] == list(CATALOG)
    assert set(names) == {*CATALOG, *timm.list_models()}
    assert len(names) == len(set(names))
    assert "parameters" not in rows[0]


def test_a_short_list_has_parameters():
    """Built without data, so exact: convnet4 and resnet18."""
    (ours,), (timms,) = model_rows("convnet4", pretrained=False), model_rows("resnet18", pretrained=False)
    assert (ours["parameters"], ours["from"], ours["weights"]) == (65_834, "zoonnx", None)
    assert (timms["parameters"], timms["MACs"], timms["licence"]) == (11_689_512, 1_814_073_344, "apache-2.0")


def test_pretrained_lists_each_set_of_weights():
    """One row a set, by the name that timm loads it under, with the licence that timm notes."""
    rows = model_rows("mobilenetv3_small_*", pretrained=True)
    assert [row["network"] for row in rows] == timm.list_models("mobilenetv3_small_*", pretrained=True)
    assert all(row["weights"] and row["licence"] for row in rows)


def test_nothing_matches():
    """Did you mean."""
    with pytest.raises(UnknownNetworkError, match="did you mean 'resnet18'"):
        model_rows("resnt18", pretrained=False)


def test_the_command(command):
    """JSON on request; a table that ends with how many there are; a mistake is one sentence."""
    assert json.loads(command("models", "convnet4", "--json").out) == model_rows("convnet4", pretrained=False)
    assert command("models", "convnet4").out.endswith("1 network\n")
    missing = command("models", "convnet_4")
    assert (missing.status, missing.err.count("\n")) == (2, 1)
