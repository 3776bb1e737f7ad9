"""Random shifts of training images."""

import pytest
import torch

from zoo.data.augmentation import draw_shifts, shift


def shift_randomly(images, max_shift_px):
    """Shift each image by its own random offset."""
    return shift(images, draw_shifts(len(images), max_shift_px))


@pytest.fixture
def dots():
    """200 images of 5x5 pixels, black but for a white pixel in the middle."""
    images = torch.zeros(200, 5, 5, 1, dtype=torch.uint8)
    images[:, 2, 2] = 255
    return images


def test_shift_reaches_every_position_in_its_range(dots):
    """Images are shifted independently; a maximum of one pixel allows nine positions."""
    positions = {tuple(position) for position in shift_randomly(dots, 1).squeeze(3).nonzero()[:, 1:].tolist()}
    assert positions == {(row, column) for row in (1, 2, 3) for column in (1, 2, 3)}


def test_shift_keeps_type_and_shape(dots):
    """A shift changes neither the dtype nor the shape."""
    shifted = shift_randomly(dots, 2)
    assert (shifted.dtype, shifted.shape) == (dots.dtype, dots.shape)


def test_uncovered_pixels_are_black():
    """Shifted white images have black edges and no values between black and white."""
    shifted = shift_randomly(torch.full((50, 4, 4, 1), 255, dtype=torch.uint8), 1)
    assert shifted.unique().tolist() == [0, 255]


def test_a_maximum_of_zero_changes_nothing(dots):
    """A maximum shift of 0 pixels returns the same images."""
    assert torch.equal(shift_randomly(dots, 0), dots)


def test_same_seed_same_shifts(dots):
    """The offsets come from torch's global generator only."""
    torch.manual_seed(3)
    first = shift_randomly(dots, 1)
    second = shift_randomly(dots, 1)
    torch.manual_seed(3)
    assert torch.equal(shift_randomly(dots, 1), first)
    assert not torch.equal(second, first)


def test_a_signal_is_shifted_along_its_length_only():
    """An image of height 1 is shifted horizontally, never vertically."""
    images = torch.full((300, 1, 16, 1), 7, dtype=torch.uint8)
    shifted = shift_randomly(images, 3)
    visible = (shifted == 7).sum(dim=(1, 2, 3))
    assert (int(visible.min()), int(visible.max())) == (13, 16)
