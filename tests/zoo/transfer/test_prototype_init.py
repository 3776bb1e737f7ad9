"""Heads initialised from class means."""

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
    """Return digits with forty training images, of all classes."""
    return replace(digits, train=MemorySplit(digits.train.images[:40], digits.train.targets[:40]))


def headed(data, head="flat", cut="act2"):
    """Return convnet4 with random weights and a new head for the data."""
    torch.manual_seed(0)
    network = attach_head(create_model("convnet4"), head, len(data.labels), cut=cut)
    data.preprocessing.attach_to(network)
    return network.eval()


def features(network, data, images):
    """Return the input of the head's linear layer."""
    with torch.no_grad():
        x = network.forward_features(data.preprocessing.normalise(images))
        return network.forward_head(x, pre_logits=True).flatten(1)


@pytest.mark.parametrize("head", ["flat", "linear"])
def test_scores_rank_classes_by_distance_from_their_mean(few, head):
    """Differences of scores are proportional to differences of squared distances from the class means."""
    network = headed(few, head)
    init_from_class_means(network, few, max_shift_px=0)
    train_features, targets = features(network, few, few.train.images), few.train.targets
    means = torch.stack([train_features[targets == label].mean(dim=0) for label in range(10)])
    images = few.test.images[:50]
    distances = torch.cdist(features(network, few, images).double(), means.double()).square()
    with torch.no_grad():
        scores = network.eval()(few.preprocessing.normalise(images)).double()
    ratios = (scores - scores[:, :1])[:, 1:] / (distances[:, :1] - distances)[:, 1:]
    assert torch.allclose(ratios, ratios.median().expand_as(ratios), rtol=0.05)
    assert ratios.median() > 0


def test_means_include_shifted_images(few):
    """With max_shift_px the mean of a class is that of its images in all nine positions."""
    network = headed(few)
    init_from_class_means(network, few, max_shift_px=1)
    expected = network.head.fc.weight.clone()
    shifts = torch.tensor([[down, right] for down in (-1, 0, 1) for right in (-1, 0, 1)])
    images = shift(few.train.images.repeat_interleave(9, dim=0), shifts.repeat(40, 1))
    shifted = replace(few, train=MemorySplit(images, few.train.targets.repeat_interleave(9)))
    init_from_class_means(network, shifted, max_shift_px=0)
    assert torch.allclose(network.head.fc.weight, expected, rtol=1e-4, atol=1e-6)


def test_few_images_and_hardly_any_training_suffice(few, short_run, tmp_path, monkeypatch):
    """After the same few steps, a head initialised from means is more accurate than a random one."""
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
    random = train(replace(settings, transfer=replace(transfer, head_init="random")), tmp_path / "random")
    assert means.test_accuracy > 0.6
    assert random.test_accuracy < 0.4
    assert load_network(tmp_path / "means").network.head.fc.weight.abs().max() > 0


def test_a_class_without_images_is_rejected(few):
    """The message names the class."""
    others = few.train.targets != 3
    without_3 = replace(few, train=MemorySplit(few.train.images[others], few.train.targets[others]))
    with pytest.raises(SettingsError, match="requires a training image of each class; '3' has none"):
        init_from_class_means(headed(few), without_3, max_shift_px=0)


@pytest.mark.parametrize("head", ["mlp", "conv1x1", "attention"])
def test_other_heads_are_rejected(head):
    """Only heads of one linear layer can be initialised from means."""
    with pytest.raises(SettingsError, match="head must be linear or flat with head_init means"):
        Transfer(head=head, head_init="means")


def test_head_init_from_the_command_line(command, short_run, tmp_path):
    """`tune` and `eval` accept the run, and the report's command has the options."""
    run = tmp_path / "run"
    options = ["--head", "flat", "--head-init", "means", "--cut-after", "act2", "--epochs", 1, "--device", "cpu"]
    assert command("tune", short_run, "--data", "digits", "--out", run, *options).status == 0
    assert command("eval", run, "--data", "digits").status == 0
    assert "--head-init means --cut-after act2" in (run / "README.md").read_text().replace("\n", " ").replace("\\ ", "")
