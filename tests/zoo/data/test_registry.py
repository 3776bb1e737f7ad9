"""Data sets and their splits."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from zoo.data import synthetic
from zoo.data.registry import load_dataset
from zoo.errors import DataError
from zoo.networks.preprocessing import Preprocessing


@pytest.fixture(scope="module")
def signal():
    """The signal data set."""
    return load_dataset("signal")


def test_splits_have_their_sizes(digits):
    """All 1,797 images, 360 of them for the test."""
    assert (len(digits.train), len(digits.val), len(digits.test)) == (1300, 137, 360)


def test_splits_share_no_image_and_lose_none(digits):
    """Together the splits hold exactly scikit-learn's images with their labels."""
    parts = (digits.train, digits.val, digits.test)
    ours = [
        (*image.flatten().tolist(), target)
        for part in parts
        for image, target in zip(part.images, part.targets.tolist(), strict=True)
    ]
    source = load_digits()
    pixels = torch.tensor(source.data).mul(255 / 16).round().int().tolist()
    assert sorted(ours) == sorted(
        (*image, target) for image, target in zip(pixels, source.target.tolist(), strict=True)
    )


def test_images_are_uint8_with_channels_last(digits):
    """Pixels reach from 0 to 255."""
    images = digits.train.images
    assert (images.dtype, images.shape[1:], int(images.min()), int(images.max())) == (torch.uint8, (8, 8, 1), 0, 255)


@pytest.mark.parametrize("name", ["train", "val", "test"])
def test_each_split_holds_every_class_alike(digits, name):
    """The splits are stratified: no class has more than 1.2 times its tenth."""
    counts = digits.split(name).targets.bincount(minlength=10)
    assert counts.max() <= 1.2 * counts.sum() / 10
    assert counts.min() >= 0.8 * counts.sum() / 10


def test_splits_do_not_depend_on_torchs_seed(digits):
    """The test images are the same whatever ran before."""
    torch.manual_seed(5)
    assert torch.equal(load_dataset("digits").test.images, digits.test.images)


def test_preprocessing_fits_the_training_split(digits):
    """The mean and the deviation are those of the training images, to three digits."""
    scaled = digits.train.images / 255
    expected = (round(scaled.mean().item(), 3), round(scaled.std().item(), 3))
    assert (*digits.preprocessing.mean, *digits.preprocessing.std) == expected


def test_unknown_data_set_lists_what_there_is():
    """The message names the data sets that exist."""
    with pytest.raises(DataError, match="no data set is called 'digit'; there are: digits, signal"):
        load_dataset("digit")


def test_unknown_split_lists_what_there_is(digits):
    """The message names the splits."""
    with pytest.raises(DataError, match="the splits are train, val, test; got 'dev'"):
        digits.split("dev")


def test_a_net_of_other_classes_does_not_fit(digits):
    """Labels must agree one by one."""
    with pytest.raises(DataError, match=r"the network tells apart 2 classes \(a, b, ...\); digits holds 10 classes"):
        digits.check_fits(("a", "b"), digits.preprocessing)


def test_a_net_of_another_size_does_not_fit(digits):
    """Images are not resized in silence."""
    larger = Preprocessing(input_size=(1, 16, 16), mean=(0.5,), std=(0.5,))
    with pytest.raises(DataError, match=r"expects images .* \(1, 16, 16\); digits has \(1, 8, 8\)"):
        digits.check_fits(digits.labels, larger)


class TestSignal:
    """The synthetic signals."""

    def test_splits_have_their_sizes_and_every_kind_alike(self, signal):
        """900, 150 and 360 signals, each kind a sixth of them."""
        counts = [split.targets.bincount().tolist() for split in (signal.train, signal.val, signal.test)]
        assert counts == [[150] * 6, [25] * 6, [60] * 6]

    def test_a_signal_is_an_image_of_height_one(self, signal):
        """Bytes, (N, 1, length, 1), and the preprocessing says the same."""
        images = signal.train.images
        assert (images.dtype, images.shape[1:]) == (torch.uint8, (1, 128, 1))
        assert signal.preprocessing.input_size == (1, 1, 128)

    def test_is_drawn_the_same_each_time(self, signal):
        """Whatever ran before."""
        torch.manual_seed(5)
        np.random.default_rng(5).random()
        assert torch.equal(load_dataset("signal").test.images, signal.test.images)

    def test_splits_share_no_signal(self, signal):
        """No two signals are equal."""
        every = torch.cat([signal.train.images, signal.val.images, signal.test.images])
        assert len(every.unique(dim=0)) == len(every) == 1_410

    def test_preprocessing_fits_the_training_split(self, signal):
        """To two digits."""
        scaled = signal.train.images / 255
        assert signal.preprocessing.mean == (pytest.approx(scaled.mean().item(), abs=0.005),)
        assert signal.preprocessing.std == (pytest.approx(scaled.std().item(), abs=0.005),)

    def test_kinds_look_as_they_are_called(self):
        """A square has two values, a sawtooth rises but for its falls, a motif is the same shape at each place."""
        rng = np.random.default_rng(0)
        square, sawtooth, motif = (synthetic.KINDS[kind](rng) for kind in ("square", "sawtooth", "motif"))
        assert sorted(set(square)) == [-1, 1]
        assert (np.diff(sawtooth) > 0).mean() > 0.9
        correlation = np.correlate(motif, synthetic.MOTIF)
        assert np.isclose(correlation.max(), synthetic.MOTIF @ synthetic.MOTIF)

    @pytest.mark.parametrize("kind", synthetic.KINDS)
    def test_kinds_stay_between_minus_one_and_one(self, kind):
        """So that bytes hold them with the noise."""
        drawn = synthetic.KINDS[kind](np.random.default_rng(1))
        assert drawn.shape == (128,)
        assert 0.5 < np.abs(drawn).max() <= 1
