"""Truncated backbones."""

from dataclasses import replace

import pytest
import torch
from google.protobuf import json_format

from protos import manifest
from zoo.catalog import create_model
from zoo.errors import SettingsError
from zoo.inspect import describe
from zoo.inspect.target import InspectionTarget, find_target
from zoo.runs.load import load_network
from zoo.settings import Transfer
from zoo.training.trainer import train
from zoo.transfer.heads import attach_head

CUT_ROWS = [
    *(f"backbone.{name}{number}" for number in (1, 2) for name in ("conv", "bn", "act")),
    *("head", "head.flatten", "head.drop", "head.fc"),
]


def description(target):
    """Return the layer names in a description, and its line about the receptive field."""
    geometry = target.geometry()
    rows = describe.as_json(target, geometry, None)["layers"]
    assert describe.as_table(target, geometry, None).row_count == len(rows)
    return [row["name"] for row in rows], describe.summary(target, geometry)[2]


def network_with_statistics(name):
    """Return a network in eval mode with BatchNorm statistics of random images, and the images."""
    torch.manual_seed(0)
    network = create_model(name).train()
    x = torch.randn(4, *network.default_cfg["input_size"])
    network(x)
    return network.eval(), x


@pytest.mark.parametrize(
    ("name", "layer"), [("convnet4", "act2"), ("test_resnet", "layer2"), ("test_resnet", "layer3.0"), ("lenet5", "s4")]
)
def test_the_features_are_the_layers_output(name, layer):
    """The layer's output is the same as in the complete network, and later layers have no weights."""
    network, x = network_with_statistics(name)
    outputs = []
    hook = network.get_submodule(layer).register_forward_hook(
        lambda _module, _inputs, output: outputs.append(output.clone())
    )
    network(x)
    hook.remove()
    before = sum(parameter.numel() for parameter in network.parameters())
    headed = attach_head(network, "flat", num_classes=3, cut=layer).eval()
    assert torch.equal(headed.forward_features(x), outputs[0])
    assert headed(x).shape == (4, 3)
    assert sum(parameter.numel() for parameter in headed.backbone.parameters()) < before


@pytest.mark.parametrize(
    ("name", "layer", "message"),
    [
        ("convnet4", "acct2", "ConvNet4 has no layer 'acct2' to cut after; did you mean 'act2'"),
        ("convnet4", "head", "cannot be cut after 'head', which is not called by forward_features"),
        (
            "test_resnet",
            "layer2.0.conv1",
            "cannot be cut after 'layer2.0.conv1': the network processes its output outside of layers",
        ),
    ],
)
def test_impossible_cuts_are_rejected(name, layer, message):
    """An unknown layer, one after the features and one inside a residual block are errors."""
    with pytest.raises(SettingsError, match=message):
        attach_head(create_model(name), "flat", num_classes=3, cut=layer)


def test_a_truncated_run_is_loaded_and_tuned_again(short_run, short_settings, tmp_path):
    """A loaded run stays truncated; tuning it again requires the same cut_after."""
    cut = Transfer(head="flat", cut_after="act2", schedule="probe")
    settings = replace(short_settings, network=str(short_run), epochs=1, transfer=cut)
    train(settings, tmp_path / "run")
    names = load_network(tmp_path / "run").network.state_dict().keys()
    assert "backbone.conv2.weight" in names
    assert "backbone.conv3.weight" not in names
    tune_again = replace(settings, network=str(tmp_path / "run"))
    train(tune_again, tmp_path / "again")
    with pytest.raises(SettingsError, match="ends at 'act2': cut_after must be 'act2'; got None"):
        train(replace(tune_again, transfer=Transfer()), tmp_path / "refused")


def test_an_exported_truncated_network_is_rebuilt(tmp_path):
    """The removed layers in the manifest determine where the backbone was cut."""
    network = attach_head(create_model("convnet4"), "flat", num_classes=3, cut="act2")
    layers = [manifest.Layer(path=path, kind=type(module).__name__) for path, module in network.named_modules() if path]
    exported = manifest.Manifest(
        source=manifest.Source(net="convnet4"),
        outputs=[manifest.Tensor(shape=[-1, 3])],
        preprocessing=manifest.Preprocessing(channels=1, height=8, width=8),
        layer_map=manifest.LayerMap(layers=layers),
    )
    (tmp_path / "manifest.json").write_text(json_format.MessageToJson(exported))
    target = find_target(str(tmp_path))
    assert target.network.state_dict().keys() == network.state_dict().keys()
    assert description(target) == (CUT_ROWS, "receptive field: 5 pixels at backbone.act2, the last feature map")


def test_a_description_omits_removed_layers():
    """Removed layers have no row and are not the last feature map; a network's own Identity has a row."""
    network = attach_head(create_model("convnet4"), "flat", num_classes=3, cut="act2")
    target = InspectionTarget("cut", "convnet4", network.to("meta").eval(), (1, 8, 8))
    assert description(target) == (CUT_ROWS, "receptive field: 5 pixels at backbone.act2, the last feature map")
    complete = find_target("test_resnet")
    assert "Identity" in {layer["kind"] for layer in describe.as_json(complete, complete.geometry(), None)["layers"]}


def test_cached_features_depend_on_the_cut(short_run, short_settings, tmp_path):
    """A cut before and a cut after a ReLU, which has no weights, have different cached features."""
    for layer in ("bn2", "act2"):
        cut = Transfer(head="flat", cut_after=layer, schedule="probe", cached=True)
        settings = replace(short_settings, network=str(short_run), epochs=1, max_shift_px=0, transfer=cut)
        train(settings, tmp_path / layer)
    assert len(list((tmp_path / ".features").iterdir())) == 6
