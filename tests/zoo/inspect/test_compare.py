"""`zoonnx compare`: networks side by side, and three ways to connect a layer."""

import json

import pytest
import torch
from torch import nn

from zoo.errors import SettingsError
from zoo.inspect import compare
from zoo.inspect.compare import LayerSpec, layer_rows
from zoo.inspect.target import find_target
from zoo.layers import LocallyConnected2d


def test_three_layers_with_the_same_output():
    """From 1x8x8 to 8 channels, 3x3, the layers have 33,280, 5,120 and 80 parameters; sharing saves no MACs."""
    rows = layer_rows(LayerSpec((1, 8, 8), to=8, kernel=3))
    assert [row["parameters"] for row in rows] == [33_280, 5_120, 80]
    assert [row["MACs"] for row in rows] == [32_768, 4_608, 4_608]
    assert {row["output"] for row in rows} == {"8x8x8"}


@pytest.mark.parametrize(("size", "to", "kernel"), [((1, 8, 8), 8, 3), ((3, 10, 6), 4, 5), ((2, 5, 5), 1, 1)])
def test_formulas_match_pytorch_layers(size, to, kernel):
    """The same layers built in PyTorch have as many parameters."""
    channels, height, width = size
    with torch.device("meta"):
        layers = [
            nn.Linear(channels * height * width, to * height * width),
            LocallyConnected2d(channels, to, kernel, input_size=(height, width), padding=kernel // 2),
            nn.Conv2d(channels, to, kernel, padding=kernel // 2),
        ]
    expected = [sum(parameter.numel() for parameter in layer.parameters()) for layer in layers]
    assert [row["parameters"] for row in layer_rows(LayerSpec(size, to, kernel))] == expected


@pytest.mark.parametrize("scale", [1, 2, 4])
def test_growth_with_the_input_size(scale):
    """With n pixels, fully connected weights grow as n squared, locally connected as n, convolutional not at all."""
    small, large = (layer_rows(LayerSpec((1, 8 * side, 8), 8, 3)) for side in (1, scale))
    growth = [after["weights"] / before["weights"] for before, after in zip(small, large, strict=True)]
    assert growth == [scale**2, scale, 1]


@pytest.mark.parametrize(
    ("question", "message"),
    [
        ({"kernel": 9, "padding": "valid"}, "a window of 9 does not fit on 8 rows"),
        ({"kernel": 3, "stride": 2, "padding": "valid"}, "stride 2 drops the last 1 of 8 rows; these sizes fit: 7, 9"),
        ({"kernel": 4}, "padding 'same' requires an odd window"),
        ({"kernel": 3, "padding": "some"}, "padding must be 'valid', 'same' or an integer"),
    ],
)
def test_windows_that_do_not_fit(question, message):
    """A window that does not fit raises an error that suggests what would."""
    with pytest.raises(SettingsError, match=message):
        LayerSpec((1, 8, 8), to=8, **question)


def test_networks_side_by_side():
    """Each row has a network's totals at its default input size."""
    convnet, resnet, vit = compare.network_rows(map(find_target, ("convnet4", "resnet18", "vit_tiny_patch16_224")))
    assert (convnet["parameters"], convnet["receptive_field"]) == (65_834, "14")
    assert (resnet["strides_exact"], resnet["drop_padding"], resnet["drop_rows"]) == (13, 5, 3)
    assert (resnet["receptive_field"], vit["receptive_field"]) == ("435", "all")


def test_command(command):
    """`--json` prints the rows, and a command without anything to compare fails with one line."""
    printed = command("compare", "--layers", "1,8,8", "--to", 8, "--kernel", 3, "--json")
    assert json.loads(printed.out) == layer_rows(LayerSpec((1, 8, 8), to=8, kernel=3))
    empty = command("compare")
    assert (empty.status, empty.err) == (2, "zoonnx compare: name the networks to compare, or pass --layers C,H,W\n")
