"""Networks by name."""

import pytest
import timm
import torch

from zoo.catalog import CATALOG, create_model
from zoo.errors import SettingsError, UnknownNetworkError
from zoo.networks.preprocessing import Preprocessing


def test_builds_a_net_of_timm_by_name():
    """What the catalog does not have comes from timm, with timm's own class."""
    network = create_model("test_resnet", num_classes=5)
    assert type(network) is type(timm.create_model("test_resnet"))
    assert network.eval()(torch.zeros(1, 3, 64, 64)).shape == (1, 5)


def test_leaves_the_architecture_as_it_is_unless_asked():
    """Without arguments timm's own number of classes and channels hold."""
    network = create_model("test_resnet.r160_in1k")
    assert (network.num_classes, Preprocessing.from_net(network).input_size) == (1000, (3, 160, 160))


def test_preprocessing_follows_in_chans():
    """A network of other channels says so, with the mean of its former means."""
    own = Preprocessing.from_net(create_model("test_resnet"))
    grey = Preprocessing.from_net(create_model("test_resnet", in_chans=1))
    assert grey.input_size == (1, 160, 160)
    assert grey.mean == (pytest.approx(sum(own.mean) / 3),)


def test_preprocessing_of_one_net_leaves_the_next_alone():
    """A network's config is its own, not a table shared by all networks of that name."""
    create_model("convnet4", in_chans=4)
    assert Preprocessing.from_net(create_model("convnet4")).channels == 1


@pytest.mark.parametrize(("name", "meant"), [("convnet5", "convnet4"), ("resnet81", "resnet18")])
def test_unknown_name_brings_close_ones(name, meant):
    """The message offers what was probably meant, of ours and of timm's."""
    with pytest.raises(UnknownNetworkError, match=f"no network is called '{name}'; did you mean .*'{meant}'"):
        create_model(name)


def test_close_names_are_offered_once():
    """A network of ours that timm knows too does not appear twice."""
    with pytest.raises(UnknownNetworkError) as caught:
        create_model("convnet5")
    assert str(caught.value).count("'convnet4'") == 1


@pytest.mark.parametrize("name", ["", "qqqq", "resnet18.no_such_tag", "other:/nowhere"])
def test_what_is_no_name_is_refused(name):
    """Empty names, unknown tags and unknown prefixes are no names."""
    with pytest.raises(UnknownNetworkError, match="no network is called"):
        create_model(name)


def test_img_size_builds_a_transformer_for_it():
    """A network of timm that fixes its size has the patches of the size asked for, and says so."""
    network = create_model("test_vit", img_size=(64, 96)).eval()
    assert network(torch.zeros(1, 3, 64, 96)).shape == (1, 1000)
    assert Preprocessing.from_net(network).input_size == (3, 64, 96)


def test_img_size_of_a_net_that_takes_any_is_noted():
    """A convolutional network is the same, and its data config follows."""
    network = create_model("test_resnet", img_size=(96, 64), in_chans=1)
    assert Preprocessing.from_net(network).input_size == (1, 96, 64)


def test_a_transformer_that_cannot_be_built_for_a_size_says_so():
    """8x8 pixels hold no patch of 16x16."""
    with pytest.raises(
        SettingsError, match=r"the network 'test_vit' cannot be built with img_size \(8, 8\): the image is"
    ):
        create_model("test_vit", img_size=(8, 8))


def test_every_entry_has_a_description():
    """One line, as a list of networks would show it."""
    assert [entry.description for entry in CATALOG.values() if not entry.description or "\n" in entry.description] == []
