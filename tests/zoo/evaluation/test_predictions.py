"""Predictions saved as images and a CSV table."""

import csv

import numpy as np
import pytest
import torch
from PIL import Image

from zoo.data.splits import MemorySplit
from zoo.errors import DataError
from zoo.evaluation.evaluate import Evaluation
from zoo.evaluation.predictions import save_predictions

LABELS = ("cat", "dog")


@pytest.fixture
def evaluation():
    """An evaluation of three images and two classes, with logits that have no short decimal form."""
    logits = torch.tensor([[1 / 3, -1e-9], [np.pi * 1e20, 2.0], [0.1, 1e-40]], dtype=torch.float32)
    return Evaluation(0.0, 1 / 3, logits, predictions=torch.tensor([0, 0, 0]), targets=torch.tensor([1, 0, 1]))


def images(channels):
    """Return three random images of 4x5 pixels."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (3, 4, 5, channels), dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize("channels", [1, 3])
def test_saved_images_have_the_same_pixels(tmp_path, evaluation, channels):
    """Images are saved without loss, in a folder named by their label."""
    save_predictions(tmp_path / "out", MemorySplit(images(channels), torch.zeros(3)), evaluation, LABELS)
    with Image.open(tmp_path / "out" / "images" / "dog" / "00002.png") as image:
        pixels = np.asarray(image).reshape(4, 5, channels)
    assert np.array_equal(pixels, images(channels)[2].numpy())


def test_saved_logits_are_exact(tmp_path, evaluation):
    """The text of a logit, read as float32, is the same number, also if it is tiny or huge."""
    save_predictions(tmp_path / "out", MemorySplit(images(1), torch.zeros(3)), evaluation, LABELS)
    rows = list(csv.DictReader((tmp_path / "out" / "predictions.csv").read_text().splitlines()))
    assert [row["file"] for row in rows] == ["images/dog/00000.png", "images/cat/00001.png", "images/dog/00002.png"]
    assert [(row["label"], row["predicted"]) for row in rows] == [("dog", "cat"), ("cat", "cat"), ("dog", "cat")]
    logits = np.array([[row["logit_cat"], row["logit_dog"]] for row in rows]).astype(np.float32)
    assert np.array_equal(logits, evaluation.logits.numpy())


def test_an_existing_folder_is_refused(tmp_path, evaluation):
    """An existing folder is an error, and does not change."""
    with pytest.raises(DataError, match="already exists; nothing was overwritten"):
        save_predictions(tmp_path, MemorySplit(images(1), torch.zeros(3)), evaluation, LABELS)
    assert list(tmp_path.iterdir()) == []
