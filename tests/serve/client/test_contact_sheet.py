"""The contact sheet: layout, colour scales and text."""

import numpy as np
import pytest
from PIL import Image

from serve.client import contact_sheet as contact_sheet_module
from serve.client.contact_sheet import contact_sheet

IMAGE = np.arange(64, dtype=np.uint8).reshape(8, 8, 1)


def height(**layers: np.ndarray | str) -> int:
    return contact_sheet(IMAGE, layers).height


def pixels(image: Image.Image) -> set[tuple[int, ...]]:
    return {colour for _, colour in image.getcolors(image.width * image.height)}


def test_block_heights() -> None:
    """Channels add a strip of maps, a vector adds a barcode, and text adds a caption only."""
    channels, vector = np.random.default_rng(0).normal(size=(3, 8, 8)), np.arange(10.0)
    empty = height()
    strip = height(a=channels) - empty
    assert strip == contact_sheet_module.CAPTION_HEIGHT + contact_sheet_module.TILE + 8
    assert height(a=vector) - empty == contact_sheet_module.CAPTION_HEIGHT + contact_sheet_module.BARCODE_HEIGHT + 8
    assert height(a="folded into 'b'") - empty == contact_sheet_module.CAPTION_HEIGHT
    assert height(a=channels, b="same as a") - empty == strip + contact_sheet_module.CAPTION_HEIGHT


def test_maps_of_a_layer_share_one_scale() -> None:
    """A map with twice the values gets another colour: maps are not rescaled one by one."""
    weak, strong = np.full((1, 4, 4), 1.0), np.full((1, 4, 4), 2.0)
    both, _ = contact_sheet_module._strip(np.concatenate([weak, strong]))
    first, second = both.getpixel((5, 5)), both.getpixel((contact_sheet_module.TILE + contact_sheet_module.GAP + 5, 5))
    assert first == contact_sheet_module.SEQUENTIAL[0]
    assert np.abs(np.subtract(second, contact_sheet_module.SEQUENTIAL[-1])).max() <= 1


def test_zero_is_the_middle_of_the_diverging_scale() -> None:
    """With both signs, zero is the middle colour, negative values are blue and positive ones are red."""
    maps = np.array([-1.0, 0.0, 1.0]).reshape(3, 1, 1) * np.ones((3, 4, 4))
    strip, _ = contact_sheet_module._strip(maps)
    step = contact_sheet_module.TILE + contact_sheet_module.GAP
    negative, zero, positive = (strip.getpixel((index * step + 5, 5)) for index in range(3))
    assert np.abs(np.subtract(zero, contact_sheet_module.DIVERGING[3])).max() <= 2
    assert negative[2] > negative[0]
    assert positive[0] > positive[2]


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
def test_shape_of_maps(shape: tuple[int, ...], maps: tuple[int, ...]) -> None:
    """Channels are maps; tokens that fill a square form a grid, without the class token; other outputs are one row."""
    assert contact_sheet_module._maps(np.zeros(shape)).shape == maps


def test_tokens_fill_the_grid_row_by_row() -> None:
    """Tokens fill the grid in row-major order, starting after the class token."""
    tokens = np.arange(10.0).reshape(10, 1)
    assert contact_sheet_module._maps(tokens)[0].tolist() == [[1, 2, 3], [4, 5, 6], [7, 8, 9]]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity(value: float) -> None:
    """An output with NaN or infinity is drawn without an error."""
    output = np.ones((2, 4, 4))
    output[0, 0, 0] = value
    assert contact_sheet(IMAGE, {"a": output}).width == contact_sheet_module.WIDTH


def test_probabilities_are_bars() -> None:
    """The most probable class comes first, and a bar's length is proportional to the probability."""
    without_bars = contact_sheet(IMAGE, {})
    with_bars = contact_sheet(IMAGE, {}, [0.1, 0.7, 0.2], ["a", "b", "c"])
    assert contact_sheet_module.BAR in pixels(with_bars) - pixels(without_bars)
    columns = (np.asarray(with_bars) == contact_sheet_module.BAR).all(axis=-1).sum(axis=1)
    bars = columns[columns > 0]
    assert bars[0] == bars.max()
    assert bars[0] > 5 * bars[-1]


def test_deterministic() -> None:
    """The same input draws the same bytes."""
    output = np.random.default_rng(1).normal(size=(20, 5, 5))
    first, second = (contact_sheet(IMAGE, {"a": output}, [1.0], ["x"]).tobytes() for _ in range(2))
    assert first == second
