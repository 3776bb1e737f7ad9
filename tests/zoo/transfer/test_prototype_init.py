"""Heads that begin from class means."""

from dataclasses import replace

import pytest
import torch

from zoo.catalog import create_model
from zoo.data.augmentation import shift
from zoo.data.registry import SOURCES, Source
from zoo.data.splits import MemorySplit
from zoo.errors import SettingsError
from zoo.runs.checkpoint import read_settings
from zoo.runs.load import load_network
from zoo.settings import Transfer
from zoo.training.trainer import train
from zoo.transfer.heads import attach_head
from zoo.transfer.prototype_init import init_from_class_means


@pytest.fixture
def few(digits):
    """Forty training images of digits, all classes among them."""
    return replace(digits, train=MemorySplit(digits.train.images[:40], digits.train.targets[:40]))


def headed(data, head="flat", cut="act2"):
    """A network of random weights under a head for the data."""
    torch.manual_seed(0)
    network = attach_head(create_model("convnet4"), head, len(data.labels), cut=cut)
    data.preprocessing.attach_to(network)
    return network.eval()


def features(network, data, images):
    """What the head's linear layer gets."""
    with torch.no_grad():
        x = network.forward_features(data.preprocessing.normalise(images))
        return network.forward_head(x, pre_logits=True).flatten(1)


@pytest.mark.parametrize("head", ["flat", "linear"])
def test_it_begins_as_the_nearest_mean(few, head):
    """Differences of scores are those of squared distances from the classes' mean features, by one factor."""
    network = headed(few, head)
    init_from_class_means(network, few, max_shift_px=0)
    taken, targets = features(network, few, few.train.images), few.train.targets
    means = torch.stack([taken[targets == label].mean(dim=0) for label in range(10)])
    probes = few.test.images[:50]
    distances = torch.cdist(features(network, few, probes).double(), means.double()).square()
    with torch.no_grad():
        scores = network.eval()(few.preprocessing.normalise(probes)).double()
    ratios = (scores - scores[:, :1])[:, 1:] / (distances[:, :1] - distances)[:, 1:]
    assert torch.allclose(ratios, ratios.median().expand_as(ratios), rtol=0.05)
    assert ratios.median() > 0


def test_moved_images_count_where_training_moves_them(few):
    """The mean of a class is that of its images in all nine places."""
    network = headed(few)
    init_from_class_means(network, few, max_shift_px=1)
    once = network.head.fc.weight.clone()
    moves = torch.tensor([[down, right] for down in (-1, 0, 1) for right in (-1, 0, 1)])
    images = shift(few.train.images.repeat_interleave(9, dim=0), moves.repeat(40, 1))
    moved = replace(few, train=MemorySplit(images, few.train.targets.repeat_interleave(9)))
    init_from_class_means(network, moved, max_shift_px=0)
    assert torch.allclose(once, network.head.fc.weight, rtol=1e-4, atol=1e-6)


def test_few_images_and_hardly_any_training_beat_chance_by_far(few, short_run, tmp_path, monkeypatch):
    """A head that begins at random does not, with the same steps."""
    monkeypatch.setitem(SOURCES, "few", Source(lambda *_: few))
    transfer = Transfer(head="flat", head_init="means", cut_after="act2", schedule="probe")
    settings = replace(
        read_settings(short_run),
        network=str(short_run),
        data="few",
        epochs=1,
        lr=1e-6,
        max_shift_px=0,
        transfer=transfer,
    )
    means = train(settings, tmp_path / "means")
    fresh = train(replace(settings, transfer=replace(transfer, head_init="random")), tmp_path / "random")
    assert means.test_accuracy > 0.6
    assert fresh.test_accuracy < 0.4
    assert load_network(tmp_path / "means").network.head.fc.weight.abs().max() > 0


def test_a_class_without_a_image_is_named(few):
    """It has no mean."""
    there = few.train.targets != 3
    lacking = replace(few, train=MemorySplit(few.train.images[there], few.train.targets[there]))
    with pytest.raises(SettingsError, match="needs a training image of each class; '3' has none"):
        init_from_class_means(headed(few), lacking, max_shift_px=0)


@pytest.mark.parametrize("head", ["mlp", "conv1x1", "attention"])
def test_other_heads_have_no_means(head):
    """Only those that are one linear layer."""
    with pytest.raises(SettingsError, match="head must be linear or flat where it begins from means"):
        Transfer(head=head, head_init="means")


def test_all_of_it_from_the_command_line(command, short_run, tmp_path):
    """Tune, and measure again; the report's command has the options."""
    run = tmp_path / "run"
    options = ["--head", "flat", "--head-init", "means", "--cut-after", "act2", "--epochs", 1, "--device", "cpu"]
    assert command("tune", short_run, "--data", "digits", "--out", run, *options).status == 0
    assert command("eval", run, "--data", "digits").status == 0
    assert "--head-init means --cut-after act2" in (run / "README.md").read_text().replace("\n", " ").replace("\\ ", "")
