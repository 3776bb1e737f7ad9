"""Datasets by name: the built-in ones and the table of sources."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from zoo.data import synthetic
from zoo.data.paths import redact_path
from zoo.data.registry import SOURCES, Source, dataset_names, find_data, load_dataset, redacted_name
from zoo.errors import DataError
from zoo.networks.preprocessing import Preprocessing


@pytest.fixture(scope="module")
def signal():
    """The signal dataset."""
    return load_dataset("signal")


def test_splits_have_their_sizes(digits):
    """The splits of digits have 1300, 137 and 360 images."""
    assert (len(digits.train), len(digits.val), len(digits.test)) == (1300, 137, 360)


def test_each_image_is_in_one_split(digits):
    """The splits together are exactly scikit-learn's images with their labels."""
    splits = (digits.train, digits.val, digits.test)
    actual = [
        (*image.flatten().tolist(), target)
        for split in splits
        for image, target in zip(split.images, split.targets.tolist(), strict=True)
    ]
    source = load_digits()
    pixels = torch.tensor(source.data).mul(255 / 16).round().int().tolist()
    assert sorted(actual) == sorted(
        (*image, target) for image, target in zip(pixels, source.target.tolist(), strict=True)
    )


def test_images_are_uint8_with_channels_last(digits):
    """Images are uint8 (N, 8, 8, 1) and use the range 0 to 255."""
    images = digits.train.images
    assert (images.dtype, images.shape[1:], int(images.min()), int(images.max())) == (torch.uint8, (8, 8, 1), 0, 255)


@pytest.mark.parametrize("name", ["train", "val", "test"])
def test_splits_are_stratified(digits, name):
    """Each class has between 0.8 and 1.2 tenths of each split."""
    counts = digits.split(name).targets.bincount(minlength=10)
    assert counts.max() <= 1.2 * counts.sum() / 10
    assert counts.min() >= 0.8 * counts.sum() / 10


def test_splits_do_not_depend_on_torchs_seed(digits):
    """The test images do not depend on torch's global generator."""
    torch.manual_seed(5)
    assert torch.equal(load_dataset("digits").test.images, digits.test.images)


def test_preprocessing_matches_the_training_split(digits):
    """Mean and standard deviation are those of the training images, to three digits."""
    scaled = digits.train.images / 255
    expected = (round(scaled.mean().item(), 3), round(scaled.std().item(), 3))
    assert (*digits.preprocessing.mean, *digits.preprocessing.std) == expected


@pytest.mark.parametrize(("name", "hint"), [("digit", "digits"), ("foldr:flowers", "folder:"), ("hf", "hf:")])
@pytest.mark.parametrize("open_dataset", [find_data, load_dataset])
def test_an_unknown_dataset_lists_the_sources(open_dataset, name, hint):
    """The error suggests the closest source and lists all of them."""
    with pytest.raises(DataError) as caught:
        open_dataset(name)
    assert str(caught.value) == (
        f"no dataset is called '{name}'; did you mean '{hint}'? "
        "There are: digits, signal, folder:PATH, torchvision:NAME, hf:NAME"
    )


@pytest.mark.parametrize("name", ["torchvision:CIFAR10", "folder:flowers", "hf:"])
def test_load_dataset_refuses_other_sources(name):
    """`load_dataset` opens built-in datasets only."""
    with pytest.raises(DataError, match=f"'{name}' is not a built-in dataset; open it with find_data"):
        load_dataset(name)


def test_a_new_source_needs_one_row(monkeypatch, tmp_path, digits):
    """A row of SOURCES is enough to open, list and redact the datasets of a new source."""
    arguments = []

    def open_constant(argument, bad_images):
        arguments.append((argument, bad_images))
        return digits

    monkeypatch.setitem(SOURCES, "constant:", Source(open_constant, "PATH", redact_path))
    assert find_data(f"constant:{tmp_path}", bad_images="skip") is digits
    assert arguments == [(str(tmp_path), "skip")]
    assert "constant:PATH" in dataset_names()
    assert redacted_name(f"constant:{tmp_path}") == f"constant:{tmp_path.name}"
    with pytest.raises(DataError, match="did you mean 'constant:'"):
        find_data("constants:a")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("digits", "digits"),
        ("folder:/home/me/flowers/", "folder:flowers"),
        ("folder:/home/me/a:b", "folder:a:b"),
        ("torchvision:CIFAR10", "torchvision:CIFAR10"),
        ("hf:uoft-cs/cifar100@small#fine_label", "hf:uoft-cs/cifar100@small#fine_label"),
        ("unknown:/a/b", "unknown:/a/b"),
        ("", ""),
    ],
)
def test_redacted_names(name, expected):
    """Paths lose all but their last component; names of hubs and unknown names do not change."""
    assert redacted_name(name) == expected


def test_an_unknown_split_lists_the_splits(digits):
    """The error lists the splits."""
    with pytest.raises(DataError, match="the splits are train, val, test; got 'dev'"):
        digits.split("dev")


def test_a_network_with_other_classes_does_not_fit(digits):
    """The network's labels must equal the dataset's."""
    with pytest.raises(DataError, match=r"the network has 2 classes \(a, b, ...\); digits has 10 classes"):
        digits.check_fits(("a", "b"), digits.preprocessing)


def test_a_network_with_another_input_size_does_not_fit(digits):
    """Another input size is an error; images are not resized silently."""
    larger = Preprocessing(input_size=(1, 16, 16), mean=(0.5,), std=(0.5,))
    with pytest.raises(DataError, match=r"expects images .* \(1, 16, 16\); digits has \(1, 8, 8\)"):
        digits.check_fits(digits.labels, larger)


class TestSignal:
    """The built-in dataset of synthetic signals."""

    def test_splits_have_their_sizes(self, signal):
        """The splits have 900, 150 and 360 signals, a sixth of each kind."""
        counts = [split.targets.bincount().tolist() for split in (signal.train, signal.val, signal.test)]
        assert counts == [[150] * 6, [25] * 6, [60] * 6]

    def test_a_signal_is_an_image_of_height_one(self, signal):
        """Signals are uint8 (N, 1, length, 1), and the input size is (1, 1, length)."""
        images = signal.train.images
        assert (images.dtype, images.shape[1:]) == (torch.uint8, (1, 128, 1))
        assert signal.preprocessing.input_size == (1, 1, 128)

    def test_is_deterministic(self, signal):
        """The signals do not depend on the global generators."""
        torch.manual_seed(5)
        np.random.default_rng(5).random()
        assert torch.equal(load_dataset("signal").test.images, signal.test.images)

    def test_splits_share_no_signal(self, signal):
        """No two signals of the dataset are equal."""
        signals = torch.cat([signal.train.images, signal.val.images, signal.test.images])
        assert len(signals.unique(dim=0)) == len(signals) == 1_410

    def test_preprocessing_matches_the_training_split(self, signal):
        """Mean and standard deviation are those of the training signals, to two digits."""
        scaled = signal.train.images / 255
        assert signal.preprocessing.mean == (pytest.approx(scaled.mean().item(), abs=0.005),)
        assert signal.preprocessing.std == (pytest.approx(scaled.std().item(), abs=0.005),)

    def test_kinds_have_their_shapes(self):
        """A square has two values, a sawtooth mostly rises, and a motif contains MOTIF."""
        rng = np.random.default_rng(0)
        square, sawtooth, motif = (synthetic.KINDS[kind](rng) for kind in ("square", "sawtooth", "motif"))
        assert sorted(set(square)) == [-1, 1]
        assert (np.diff(sawtooth) > 0).mean() > 0.9
        correlation = np.correlate(motif, synthetic.MOTIF)
        assert np.isclose(correlation.max(), synthetic.MOTIF @ synthetic.MOTIF)

    @pytest.mark.parametrize("kind", synthetic.KINDS)
    def test_kinds_stay_between_minus_one_and_one(self, kind):
        """Clean signals have the length 128 and amplitudes up to 1."""
        signal = synthetic.KINDS[kind](np.random.default_rng(1))
        assert signal.shape == (128,)
        assert 0.5 < np.abs(signal).max() <= 1
