"""The share of an image that the centre crop removes, and the warning about it."""

from dataclasses import replace

import pytest

from zoo.data.crop_check import cropped_share
from zoo.data.registry import find_data
from zoo.networks.preprocessing import Preprocessing

PREPROCESSING = Preprocessing(input_size=(3, 24, 24), mean=(0.5,) * 3, std=(0.25,) * 3)


def write_images(paint, root, *sizes):
    """Write eight images of each size for each of two classes, and open them."""
    for label in ("red", "blue"):
        for number, size in enumerate(sizes):
            paint(root / label / str(number), 8, (90, 90, 90), size, seed=number)
    return find_data(f"folder:{root}")


@pytest.mark.parametrize(
    ("sizes", "preprocessing", "expected"),
    [
        ([(40, 30)], PREPROCESSING, 0.25),
        ([(30, 40)], PREPROCESSING, 0.25),
        ([(20, 80)], PREPROCESSING, 0.75),
        ([(40, 40)], PREPROCESSING, 0.0),
        ([(40, 40), (40, 40), (40, 30)], PREPROCESSING, 0.0),
        ([(40, 30), (40, 30), (40, 40)], PREPROCESSING, 0.25),
        ([(40, 30)], replace(PREPROCESSING, input_size=(3, 24, 32)), 0.0),
        ([(40, 40)], replace(PREPROCESSING, input_size=(3, 24, 32)), 0.25),
        ([(40, 30)], replace(PREPROCESSING, crop_mode="squash"), 0.0),
    ],
)
def test_the_share_is_the_median_over_images(paint, tmp_path, sizes, preprocessing, expected):
    """The share depends on the aspect ratios of image and network; it is 0 if the preprocessing does not crop."""
    dataset = write_images(paint, tmp_path, *sizes).for_network(preprocessing)
    assert cropped_share(dataset) == pytest.approx(expected, abs=1 / 255)


@pytest.mark.parametrize(("size", "warns"), [((40, 30), True), ((32, 32), False)])
def test_a_run_warns_in_one_line(command, paint, tmp_path, caplog, size, warns):
    """Training logs one warning if the crop removes much of the images, and none otherwise."""
    write_images(paint, tmp_path / "images", size)
    options = ["--epochs", 1, "--device", "cpu", "--workers", 0, "--input-size", "3,32,32", "--batch-size", 8]
    data = f"folder:{tmp_path / 'images'}"
    result = command("train", "test_resnet", "--data", data, "--out", tmp_path / "run", *options)
    assert result.status == 0, result.err
    expected = (
        "the centre crop to the network's shape, 32x32, removes 25% of a typical image at its edges; "
        "docs/data.md describes how to keep them"
    )
    assert caplog.messages == [expected] * warns
