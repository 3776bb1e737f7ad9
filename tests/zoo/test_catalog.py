"""Networks by name."""

import pytest
import timm
import torch

from zoo.catalog import CATALOG, create_model
from zoo.errors import SettingsError, UnknownNetworkError
from zoo.networks.preprocessing import Preprocessing


def test_builds_a_network_of_timm_by_name():
    """A name that is not in the catalog builds timm's class."""
    network = create_model("test_resnet", num_classes=5)
    assert type(network) is type(timm.create_model("test_resnet"))
    assert network.eval()(torch.zeros(1, 3, 64, 64)).shape == (1, 5)


def test_keeps_the_architectures_defaults():
    """Without arguments the number of classes and channels are timm's."""
    network = create_model("test_resnet.r160_in1k")
    assert (network.num_classes, Preprocessing.from_network(network).input_size) == (1000, (3, 160, 160))


def test_preprocessing_follows_in_chans():
    """With another number of channels, `mean` is the mean over the default channels."""
    default = Preprocessing.from_network(create_model("test_resnet"))
    grey = Preprocessing.from_network(create_model("test_resnet", in_chans=1))
    assert grey.input_size == (1, 160, 160)
    assert grey.mean == (pytest.approx(sum(default.mean) / 3),)


def test_networks_do_not_share_their_config():
    """Another `in_chans` does not change the next network of that name."""
    create_model("convnet4", in_chans=4)
    assert Preprocessing.from_network(create_model("convnet4")).channels == 1


@pytest.mark.parametrize(("name", "similar"), [("convnet5", "convnet4"), ("resnet81", "resnet18")])
def test_unknown_name_suggests_similar_names(name, similar):
    """The message suggests names of the catalog and of timm."""
    with pytest.raises(UnknownNetworkError, match=f"unknown network '{name}'; did you mean .*'{similar}'"):
        create_model(name)


def test_similar_names_are_suggested_once():
    """A network of the catalog, which is registered with timm too, does not appear twice."""
    with pytest.raises(UnknownNetworkError) as caught:
        create_model("convnet5")
    assert str(caught.value).count("'convnet4'") == 1


@pytest.mark.parametrize("name", ["", "qqqq", "resnet18.no_such_tag", "other:/nowhere"])
def test_invalid_names_are_rejected(name):
    """Empty names, unknown tags and unknown prefixes raise an error."""
    with pytest.raises(UnknownNetworkError, match="unknown network"):
        create_model(name)


def test_img_size_builds_a_transformer_for_it():
    """A network of fixed size has the patches of the requested size, and its data config has that size."""
    network = create_model("test_vit", img_size=(64, 96)).eval()
    assert network(torch.zeros(1, 3, 64, 96)).shape == (1, 1000)
    assert Preprocessing.from_network(network).input_size == (3, 64, 96)


def test_img_size_of_a_convolutional_network_is_stored():
    """A network that accepts any size has the requested one in its data config."""
    network = create_model("test_resnet", img_size=(96, 64), in_chans=1)
    assert Preprocessing.from_network(network).input_size == (1, 96, 64)


def test_images_smaller_than_a_patch_are_rejected():
    """8x8 pixels are smaller than a patch of 16x16."""
    with pytest.raises(SettingsError, match=r"cannot build network 'test_vit' with img_size \(8, 8\): the image is"):
        create_model("test_vit", img_size=(8, 8))


def test_every_entry_has_a_description():
    """A description is one line."""
    assert [entry.description for entry in CATALOG.values() if not entry.description or "\n" in entry.description] == []
