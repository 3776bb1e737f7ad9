"""Where `describe` and `compare` find a network, and what they say when an input does not fit it."""

import pytest
from google.protobuf import json_format

from protos import manifest
from zoo.catalog import create_model
from zoo.errors import CheckpointError, GeometryError, UnknownNetworkError
from zoo.geometry.input_size import parse_size
from zoo.inspect.target import subject_of
from zoo.transfer.heads import attach_head

MISFITS = [
    ("convnet4", (1, 7, 7), "layer 'pool' leaves out the last 1 row of the 7", "1x6x6 and 1x8x8"),
    ("convnet4", (1, 1, 1), "refuses an input of 1x1x1 in layer 'pool'", "1x2x2"),
    ("convnet4", (3, 8, 8), "convnet4 takes 1 channel (layer 'conv1'); the input has 3", ""),
    ("convnet4", (1, 8), "takes an input like 1x8x8; got 1x8", ""),
    ("vit_tiny_patch16_224", (3, 192, 192), "in layer 'patch_embed'", "sizes nearby that fit: 3x224x224"),
]


@pytest.mark.parametrize(("name", "size", "says", "near"), MISFITS)
def test_a_misfit_names_the_layer_and_sizes_that_fit(name, size, says, near):
    """One sentence: which layer, why, and which inputs near this one would do."""
    with pytest.raises(GeometryError) as caught:
        subject_of(name).geometry(size)
    assert says in str(caught.value)
    assert near in str(caught.value)


def test_the_sizes_it_proposes_fit():
    """What the message of a misfit proposes raises nothing."""
    subject = subject_of("convnet4")
    assert [subject.geometry(size).macs > 0 for size in ((1, 6, 6), (1, 8, 8), (1, 2, 2))] == [True] * 3


def test_a_backbone_may_drop_rows():
    """What is an error in a network of ours is a finding in a backbone."""
    geometry = subject_of("resnet18").geometry()
    assert [layer.lost for layer in geometry.sliding if layer.lost] == [1, 1, 1]


def test_a_run_is_described_as_it_was_trained(short_run):
    """Its folder names it; its architecture is the catalog's."""
    subject = subject_of(str(short_run))
    assert (subject.name, subject.architecture, subject.is_ours) == ("short", "convnet4", True)
    assert subject.geometry().parameters == 65_834


def test_unknown_names(tmp_path):
    """Did you mean; a folder without a network; a manifest that is none."""
    with pytest.raises(UnknownNetworkError, match="did you mean 'convnet4'"):
        subject_of("convnet5")
    with pytest.raises(CheckpointError):
        subject_of(str(tmp_path))
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "manifest.json").write_text("no JSON")
    with pytest.raises(CheckpointError, match=r"manifest\.json is not a manifest of zoonnx"):
        subject_of(str(tmp_path))


@pytest.mark.parametrize(("network", "words"), [("code.networks:make", "code.networks:make"), ("", "a program")])
def test_a_net_of_other_code(tmp_path, network, words):
    """An export of somebody's own function or module cannot be built again: where its layers stand is said."""
    promise = manifest.Manifest(name="m", source=manifest.Source(net=network))
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "manifest.json").write_text(json_format.MessageToJson(promise))
    with pytest.raises(
        CheckpointError, match=rf"m was exported from {words}, whose network is not known here; its layers"
    ):
        subject_of(str(tmp_path))


@pytest.mark.parametrize("text", ["", "3", "3,224", "3,a,224", "3,0,224", "3,-1,224", "3,1,2,3,4", "3x8x8"])
def test_an_input_size_is_whole_numbers(text):
    """C,H,W, or C,L for a signal; nothing else."""
    if text == "3,224":
        assert parse_size(text) == (3, 224)
    else:
        with pytest.raises(GeometryError, match="an input size is C,H,W"):
            parse_size(text)


@pytest.mark.parametrize("head", ["linear", "mlp", "conv1x1", "attention", "flat"])
def test_an_exported_headed_net_is_found_again(tmp_path, head):
    """Its layers say which head it has."""
    network = attach_head(create_model("convnet4"), head, num_classes=3)
    paths = {path: type(module).__name__ for path, module in network.named_modules() if path}
    promise = manifest.Manifest(
        source=manifest.Source(net="convnet4"),
        outputs=[manifest.Tensor(shape=[-1, 3])],
        preprocessing=manifest.Preprocessing(channels=1, height=8, width=8),
        layer_map=manifest.LayerMap(layers=[manifest.Layer(path=path, kind=kind) for path, kind in paths.items()]),
    )
    (tmp_path / "manifest.json").write_text(json_format.MessageToJson(promise))
    found = subject_of(str(tmp_path)).network
    assert {name: value.shape for name, value in found.state_dict().items()} == {
        name: value.shape for name, value in network.state_dict().items()
    }
