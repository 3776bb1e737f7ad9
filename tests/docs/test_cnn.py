"""The figures in the lecture notes' claims and the right ones, computed by the software; the generated page."""

import pytest

from docs.cnn import build
from docs.cnn.claims import CLAIMS
from zoo.geometry.sizes import Window
from zoo.inspect.compare import LayerSpec, layer_rows
from zoo.inspect.target import find_target
from zoo.layers import resolve_padding


def full(size, to, kernel, padding="valid"):
    """Return the number of weights of a fully connected layer from `size` to the output of `to` filters."""
    return layer_rows(LayerSpec(size, to, kernel, padding=padding))[0]["weights"]


@pytest.mark.parametrize(
    ("claimed", "right", "compute"),
    [
        (1_505_280, 1_505_280, lambda: full((3, 224, 224), 10, 224)),
        (225, 225, lambda: full((3, 5, 5), 3, 5)),
        (3_000_000_000, 3_000_000_000, lambda: full((3, 1000, 1000), 1000, 1000)),
        (3_000_000_000, 9_000_000, lambda: full((3, 1000, 1000), 3, 1000)),
        (2_000_000_000, 1_600_000_000, lambda: full((1, 200, 200), 1, 3, "same")),
        (14_000_000, 14_450_688, lambda: full((3, 32, 32), 6, 5)),
        (12_000_000, 120_000_000, lambda: full((3, 200, 200), 1000, 200)),
    ],
)
def test_weights_of_fully_connected_layers(claimed, right, compute):
    """The first three figures in the notes are right, the others are not."""
    assert compute() == right
    assert (claimed == right) == (claimed in (1_505_280, 225) or right == 3_000_000_000)


def test_a_filter_has_75_weights_and_a_bias():
    """By F*F*Di*K + K one 5x5x3 filter has 75 + 1 parameters, five have 380 and an output depth of 5."""
    one, five = (layer_rows(LayerSpec((3, 32, 32), k, 5, padding="valid"))[2] for k in (1, 5))
    assert (one["weights"], one["biases"], five["parameters"]) == (75, 1, 5 * 5 * 3 * 5 + 5)
    assert five["output"] == "5x28x28"


def test_sharing_saves_parameters_not_work():
    """Parameters are O(n^2), O(n) and O(1); MACs are equal with and without sharing, fewer than fully connected."""
    full_row, local, shared = layer_rows(LayerSpec((1, 8, 8), 8, 3))
    assert (full_row["parameters"], local["parameters"], shared["parameters"]) == (33_280, 5_120, 80)
    assert shared["MACs"] == local["MACs"] == full_row["MACs"] * 9 / 64


def test_a_fraction_is_rounded_down():
    """(224 + 6 - 7)/2 + 1 = 112.5, illegal in the notes; libraries compute 112 and ignore one row of padding."""
    window = Window(rows=224, taps=7, stride=2, padding=3)
    assert (224 + 6 - 7) / 2 + 1 == 112.5
    assert (window.size, window.unused, window.lost) == (112, 1, 0)


@pytest.mark.parametrize("taps", [1, 3, 5, 7])
def test_same_padding_of_odd_windows(taps):
    """Padding P = (F-1)/2 keeps the size."""
    assert resolve_padding("same", taps) == (taps - 1) // 2
    assert Window(rows=20, taps=taps, padding=(taps - 1) // 2).size == 20


@pytest.mark.parametrize(("name", "pools"), [("convnet4", 1), ("resnet18", 1), ("vgg16", 5)])
def test_pools_have_no_parameters(name, pools):
    """The notes claim that pools have trainable parameters."""
    pool_layers = [layer for layer in find_target(name).geometry().layers if "MaxPool" in layer.kind]
    assert [layer.parameters for layer in pool_layers] == [0] * pools


def test_filters_are_as_deep_as_their_input_unless_grouped():
    """The claim holds with groups = 1; a depthwise filter has a depth of 1."""
    layers = find_target("mobilenetv3_small_100").geometry().layers
    convolutions = [layer for layer in layers if layer.kind == "Conv2d"]
    depths = {layer.module.groups == 1: set() for layer in convolutions}
    for layer in convolutions:
        depths[layer.module.groups == 1].add(layer.module.weight.shape[1] * layer.module.groups == layer.inputs[0][1])
    assert depths == {True: {True}, False: {True}}
    assert {layer.module.weight.shape[1] for layer in convolutions if layer.module.groups > 1} == {1}


def test_stacks_have_larger_receptive_fields():
    """Each 3x3 convolution widens the receptive field of VGG16's first stage by 2; a pool doubles the jump."""
    geometry = find_target("vgg16").geometry()
    fields = [(geometry[name].fields[0].size, geometry[name].fields[0].jump) for name in ("features.0", "features.2")]
    assert [*fields, geometry["features.4"].fields[0].jump] == [(3, 1), (5, 1), 2]


def test_batch_normalisation_is_per_channel():
    """It has two parameters per channel."""
    assert find_target("convnet4").geometry()["bn1"].parameters == 2 * 32


@pytest.mark.parametrize(
    ("title", "right"),
    [
        ("Which operation it is", "[2.0, 3.0, -2.0]\n[2.0, 3.0, 1.0, 1.0, 1.0]"),
        ("The gradient of a shared weight", "True"),
    ],
)
def test_snippets(title, right):
    """True convolution's worked examples, both wrong in the notes, and the gradient of a shared weight."""
    code = next(claim.code for claim in CLAIMS if claim.title == title)
    assert build.code_output(code) == right


def test_the_page_is_current():
    """docs/cnn.md equals the output of `python -m docs.cnn.build`."""
    assert build.PAGE.read_text(encoding="utf-8") == build.page()


def test_a_stale_page_is_detected(tmp_path, monkeypatch, capsys):
    """`--check` fails if the page differs, and succeeds after it is written."""
    monkeypatch.setattr(build, "PAGE", tmp_path / "cnn.md")
    monkeypatch.setattr(build, "CLAIMS", CLAIMS[4:5])
    assert build.main(["--check"]) == 1
    assert "run python -m docs.cnn.build" in capsys.readouterr().err
    assert (build.main([]), build.main(["--check"])) == (0, 0)
