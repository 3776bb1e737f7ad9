"""The contact sheet shows every layer's response, and says what it cannot show."""

import numpy as np
import pytest
from PIL import Image

from serve.client import contact_sheet as sheet_module
from serve.client.contact_sheet import contact_sheet

IMAGE = np.arange(64, dtype=np.uint8).reshape(8, 8, 1)


def height(**layers: np.ndarray | str) -> int:
    return contact_sheet(IMAGE, layers).height


def pixels(image: Image.Image) -> set[tuple[int, ...]]:
    return {colour for _, colour in image.getcolors(image.width * image.height)}


def test_a_strip_for_each_layer() -> None:
    """Channels take a strip, a vector a bar, words a line."""
    channels, vector = np.random.default_rng(0).normal(size=(3, 8, 8)), np.arange(10.0)
    empty = height()
    strip = height(a=channels) - empty
    assert strip == sheet_module.LABEL_HEIGHT + sheet_module.TILE + 8
    assert height(a=vector) - empty == sheet_module.LABEL_HEIGHT + sheet_module.BARCODE_HEIGHT + 8
    assert height(a="folded into 'b'") - empty == sheet_module.LABEL_HEIGHT
    assert height(a=channels, b="same as a") - empty == strip + sheet_module.LABEL_HEIGHT


def test_one_scale_for_all_maps_of_a_layer() -> None:
    """A map twice as strong is drawn stronger, not rescaled to look the same."""
    weak, strong = np.full((1, 4, 4), 1.0), np.full((1, 4, 4), 2.0)
    both, _ = sheet_module._strip(np.concatenate([weak, strong]))
    first, second = both.getpixel((5, 5)), both.getpixel((sheet_module.TILE + sheet_module.GAP + 5, 5))
    assert first == sheet_module.SEQUENTIAL[0]
    assert np.abs(np.subtract(second, sheet_module.SEQUENTIAL[-1])).max() <= 1


def test_zero_is_white_between_the_signs() -> None:
    """Where both signs occur, zero has the colour in the middle, and the signs different ones."""
    maps = np.array([-1.0, 0.0, 1.0]).reshape(3, 1, 1) * np.ones((3, 4, 4))
    strip, _ = sheet_module._strip(maps)
    step = sheet_module.TILE + sheet_module.GAP
    below, zero, above = (strip.getpixel((index * step + 5, 5)) for index in range(3))
    assert np.abs(np.subtract(zero, sheet_module.DIVERGING[3])).max() <= 2
    assert below[2] > below[0]
    assert above[0] > above[2]


@pytest.mark.parametrize(
    ("shape", "maps"),
    [
        ((5, 7, 9), (5, 7, 9)),
        ((10,), (1, 1, 10)),
        ((64, 1, 1), (1, 1, 64)),
        ((197, 12), (12, 14, 14)),
        ((196, 12), (12, 14, 14)),
        ((11, 3), (1, 1, 33)),
        ((2, 3, 4, 5), (6, 4, 5)),
        ((), (1, 1, 1)),
    ],
)
def test_what_is_a_map(shape: tuple[int, ...], maps: tuple[int, ...]) -> None:
    """Channels are maps; tokens that fill a square are a grid, without their class token; the rest is a row."""
    assert sheet_module._maps(np.zeros(shape)).shape == maps


def test_tokens_keep_their_places() -> None:
    """A token's value stands at its place on the grid, row by row, behind the class token."""
    tokens = np.arange(10.0).reshape(10, 1)
    assert sheet_module._maps(tokens)[0].tolist() == [[1, 2, 3], [4, 5, 6], [7, 8, 9]]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_no_numbers(value: float) -> None:
    """A response with NaN or infinity is drawn, not refused."""
    response = np.ones((2, 4, 4))
    response[0, 0, 0] = value
    assert contact_sheet(IMAGE, {"a": response}).width == sheet_module.WIDTH


def test_probabilities_are_bars() -> None:
    """The best classes come first, longer bars for larger shares."""
    plain = contact_sheet(IMAGE, {})
    shown = contact_sheet(IMAGE, {}, [0.1, 0.7, 0.2], ["a", "b", "c"])
    assert sheet_module.BAR in pixels(shown) - pixels(plain)
    columns = (np.asarray(shown) == sheet_module.BAR).all(axis=-1).sum(axis=1)
    bars = columns[columns > 0]
    assert bars[0] == bars.max()
    assert bars[0] > 5 * bars[-1]


def test_the_same_image_again() -> None:
    """The same input draws the same bytes."""
    response = np.random.default_rng(1).normal(size=(20, 5, 5))
    first, second = (contact_sheet(IMAGE, {"a": response}, [1.0], ["x"]).tobytes() for _ in range(2))
    assert first == second
