"""Preprocessing of images."""

import json

import pytest
import torch

from zoo.catalog import create_model
from zoo.errors import SettingsError
from zoo.networks.preprocessing import Preprocessing

RGB = {"input_size": (3, 4, 5), "mean": (0.1, 0.2, 0.3), "std": (0.5, 1.0, 2.0)}


def test_normalises_by_hand():
    """(pixel / 255 - mean) / std, channel by channel."""
    images = torch.tensor([0, 51, 255], dtype=torch.uint8).view(1, 3, 1, 1).expand(1, 3, 4, 5)
    normalised = Preprocessing(**RGB).normalise(images)
    expected = torch.tensor([(0 - 0.1) / 0.5, (0.2 - 0.2) / 1.0, (1 - 0.3) / 2.0])
    assert normalised.dtype == torch.float32
    torch.testing.assert_close(normalised[0, :, 2, 3], expected)


def test_accepts_channels_first_and_last():
    """Both layouts produce the same (N, C, H, W) tensor."""
    images = torch.randint(0, 256, (2, 4, 5, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    preprocessing = Preprocessing(**RGB)
    last, first = preprocessing.normalise(images), preprocessing.normalise(images.permute(0, 3, 1, 2))
    assert last.shape == (2, 3, 4, 5)
    assert torch.equal(last, first)


@pytest.mark.parametrize(
    "images",
    [torch.zeros(1, 3, 4, 5), torch.zeros(1, 3, 5, 4, dtype=torch.uint8), torch.zeros(3, 4, 5, dtype=torch.uint8)],
    ids=["float", "other size", "no batch"],
)
def test_rejects_other_images(images):
    """The message has the type and shape of images that are not uint8 of the network's size."""
    with pytest.raises(SettingsError, match=r"expected uint8 images of shape \(N, 3, 4, 5\) or .*; got torch"):
        Preprocessing(**RGB).normalise(images)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"input_size": (3, 0, 5)}, r"input_size must be .*; got \(3, 0, 5\)"),
        ({"mean": (0.5,)}, r"mean needs one number for each of 3 channels; got \(0.5,\)"),
        ({"mean": (0.0, float("nan"), 0.0)}, "mean must be finite numbers"),
        ({"std": (1.0, float("inf"), 1.0)}, "std must be finite numbers"),
        ({"std": (1.0, 1.0, 0.0)}, "std must be greater than 0"),
        ({"crop_pct": 0.0}, r"crop_pct must be in \(0, 2.0\]; got 0.0"),
        ({"crop_pct": 2.1}, r"crop_pct must be in \(0, 2.0\]; got 2.1"),
        ({"interpolation": "cubic"}, "interpolation must be one of nearest, bilinear, bicubic; got 'cubic'"),
        ({"crop_mode": "random"}, "crop_mode must be one of center, squash, border; got 'random'"),
    ],
)
def test_rejects_values_out_of_range(change, message):
    """Each message has the expected and the actual value."""
    with pytest.raises(SettingsError, match=message):
        Preprocessing(**{**RGB, **change})


def test_json_round_trip():
    """Tuples become lists in JSON and are tuples again afterwards."""
    preprocessing = Preprocessing(**RGB, interpolation="bicubic", crop_pct=0.9, crop_mode="border")
    assert Preprocessing.from_json(json.loads(json.dumps(preprocessing.to_json()))) == preprocessing


@pytest.mark.parametrize("change", [{"crop": 1}, {"mean": None}], ids=["unknown", "missing"])
def test_unknown_and_missing_keys_are_rejected(change):
    """The message names the key."""
    values = {**Preprocessing(**RGB).to_json(), **change}
    values = {name: value for name, value in values.items() if value is not None}
    with pytest.raises(SettingsError, match=f"missing or unknown: {next(iter(change))}"):
        Preprocessing.from_json(values)


def test_attached_preprocessing_is_read_back():
    """from_network returns what attach_to stored."""
    network, preprocessing = create_model("convnet4", in_chans=3), Preprocessing(**RGB, crop_mode="squash")
    preprocessing.attach_to(network)
    assert Preprocessing.from_network(network) == preprocessing
