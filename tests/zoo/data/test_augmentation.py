"""Random changes to training images."""

import pytest
import torch

from zoo.data.augmentation import draw_shifts
from zoo.data.augmentation import shift as shift_by


def shift(images, max_shift_px):
    """Each image by what is drawn for it."""
    return shift_by(images, draw_shifts(len(images), max_shift_px))


@pytest.fixture
def dots():
    """200 images of 5x5 with one white pixel in the middle."""
    images = torch.zeros(200, 5, 5, 1, dtype=torch.uint8)
    images[:, 2, 2] = 255
    return images


def test_shift_reaches_every_place_within_its_range(dots):
    """Each image moves by its own offset, and one pixel gives nine places."""
    places = {tuple(place) for place in shift(dots, 1).squeeze(3).nonzero()[:, 1:].tolist()}
    assert places == {(row, column) for row in (1, 2, 3) for column in (1, 2, 3)}


def test_shift_keeps_type_and_shape(dots):
    """What comes out could go in again."""
    shifted = shift(dots, 2)
    assert (shifted.dtype, shifted.shape) == (dots.dtype, dots.shape)


def test_what_moves_in_is_black():
    """White images get black edges, and nothing but black and white."""
    shifted = shift(torch.full((50, 4, 4, 1), 255, dtype=torch.uint8), 1)
    assert shifted.unique().tolist() == [0, 255]


def test_no_shift_changes_nothing(dots):
    """0 pixels is off."""
    assert torch.equal(shift(dots, 0), dots)


def test_same_seed_same_shifts(dots):
    """The offsets come from torch's generator alone."""
    torch.manual_seed(3)
    first = shift(dots, 1)
    second = shift(dots, 1)
    torch.manual_seed(3)
    assert torch.equal(shift(dots, 1), first)
    assert not torch.equal(second, first)


def test_a_signal_moves_along_its_length_only():
    """An image of height 1 is shifted sideways, and never out of sight."""
    images = torch.full((20, 1, 16, 1), 7, dtype=torch.uint8)
    moved = shift(images, 3)
    kept = (moved == 7).sum(dim=(1, 2, 3))
    assert (int(kept.min()), int(kept.max())) == (13, 16)
