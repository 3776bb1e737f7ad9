"""Networks found by name, run or export, and the errors for input sizes that do not fit."""

import pytest
from google.protobuf import json_format

from protos import manifest
from zoo.catalog import create_model
from zoo.errors import CheckpointError, GeometryError, UnknownNetworkError
from zoo.geometry.input_size import parse_size
from zoo.inspect.target import find_target
from zoo.transfer.heads import attach_head

SIZE_ERRORS = [
    ("convnet4", (1, 7, 7), "layer 'pool' of convnet4 drops the last 1 of 7 input rows", "1x6x6 and 1x8x8"),
    ("convnet4", (1, 1, 1), "does not accept an input of 1x1x1 in layer 'pool'", "1x2x2"),
    ("convnet4", (3, 8, 8), "convnet4 expects 1 channel (layer 'conv1'); the input has 3", ""),
    ("convnet4", (1, 8), "expects an input like 1x8x8; got 1x8", ""),
    ("vit_tiny_patch16_224", (3, 192, 192), "in layer 'patch_embed'", "nearby sizes that fit: 3x224x224"),
]


@pytest.mark.parametrize(("name", "size", "message", "nearby"), SIZE_ERRORS)
def test_size_error_names_the_layer_and_fitting_sizes(name, size, message, nearby):
    """The error names the layer and the reason, and suggests nearby sizes that fit."""
    with pytest.raises(GeometryError) as caught:
        find_target(name).geometry(size)
    assert message in str(caught.value)
    assert nearby in str(caught.value)


def test_suggested_sizes_fit():
    """The network accepts the sizes that the errors suggest."""
    target = find_target("convnet4")
    assert [target.geometry(size).macs > 0 for size in ((1, 6, 6), (1, 8, 8), (1, 2, 2))] == [True] * 3


def test_backbone_may_drop_rows():
    """A stride that drops rows is an error in a catalog network, but not in a backbone."""
    geometry = find_target("resnet18").geometry()
    assert [layer.lost for layer in geometry.sliding if layer.lost] == [1, 1, 1]


def test_run_folder(short_run):
    """A run is named by its folder and has its architecture's name in the catalog."""
    target = find_target(str(short_run))
    assert (target.name, target.architecture, target.is_ours) == ("short", "convnet4", True)
    assert target.geometry().parameters == 65_834


def test_sources_without_a_network(tmp_path):
    """An unknown name, a folder without a network and an invalid manifest raise errors."""
    with pytest.raises(UnknownNetworkError, match="did you mean 'convnet4'"):
        find_target("convnet5")
    with pytest.raises(CheckpointError):
        find_target(str(tmp_path))
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "manifest.json").write_text("no JSON")
    with pytest.raises(CheckpointError, match=r"manifest\.json is not a manifest of zoonnx"):
        find_target(str(tmp_path))


@pytest.mark.parametrize(("network", "source"), [("code.networks:make", "code.networks:make"), ("", "a program")])
def test_export_of_other_code(tmp_path, network, source):
    """An export of a user's own function or module cannot be rebuilt; the error states where its layers are listed."""
    exported = manifest.Manifest(name="m", source=manifest.Source(net=network))
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "manifest.json").write_text(json_format.MessageToJson(exported))
    with pytest.raises(
        CheckpointError,
        match=rf"m was exported from {source}, a network that cannot be built here; its layers are listed",
    ):
        find_target(str(tmp_path))


@pytest.mark.parametrize("text", ["", "3", "3,224", "3,a,224", "3,0,224", "3,-1,224", "3,1,2,3,4", "3x8x8"])
def test_parse_size(text):
    """An input size is C,H,W, or C,L for a signal; anything else raises an error."""
    if text == "3,224":
        assert parse_size(text) == (3, 224)
    else:
        with pytest.raises(GeometryError, match="an input size is C,H,W"):
            parse_size(text)


@pytest.mark.parametrize("head", ["linear", "mlp", "conv1x1", "attention", "flat"])
def test_exported_backbone_with_head_is_rebuilt(tmp_path, head):
    """The head is recognised from the layer map."""
    network = attach_head(create_model("convnet4"), head, num_classes=3)
    paths = {path: type(module).__name__ for path, module in network.named_modules() if path}
    exported = manifest.Manifest(
        source=manifest.Source(net="convnet4"),
        outputs=[manifest.Tensor(shape=[-1, 3])],
        preprocessing=manifest.Preprocessing(channels=1, height=8, width=8),
        layer_map=manifest.LayerMap(layers=[manifest.Layer(path=path, kind=kind) for path, kind in paths.items()]),
    )
    (tmp_path / "manifest.json").write_text(json_format.MessageToJson(exported))
    rebuilt = find_target(str(tmp_path)).network
    assert {name: value.shape for name, value in rebuilt.state_dict().items()} == {
        name: value.shape for name, value in network.state_dict().items()
    }
