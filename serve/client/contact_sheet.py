"""A contact sheet: one image that shows the output of every layer for an input image."""

from collections.abc import Mapping, Sequence
from functools import cache

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from serve.client.images import Pixels
from serve.wire.tensors import Array

# Sizes are in pixels.
WIDTH, MARGIN, GAP = 1120, 24, 4
TILE = 63  # side of one channel's map
INPUT = 176  # side of the input image
BAR_HEIGHT, BARS = 20, 5
CAPTION_HEIGHT, BARCODE_HEIGHT = 24, 22
MAX_LABEL_LENGTH = 32  # characters
BACKGROUND, TEXT, GREY_TEXT, BAR = (252, 252, 250), (28, 28, 32), (128, 128, 136), (60, 92, 150)

# Anchors of two colour scales: SEQUENTIAL, dark to light, for values of one sign; DIVERGING, with zero in the middle.
SEQUENTIAL = [(13, 8, 42), (62, 19, 102), (122, 31, 109), (181, 50, 91), (229, 92, 48), (251, 155, 6), (247, 240, 150)]
DIVERGING = [
    (24, 66, 130),
    (83, 146, 198),
    (190, 216, 232),
    (246, 246, 244),
    (246, 205, 180),
    (214, 106, 80),
    (130, 16, 36),
]


def contact_sheet(
    image: Pixels | None,
    layers: Mapping[str, Array | str],
    probabilities: Sequence[float] = (),
    labels: Sequence[str] = (),
) -> Image.Image:
    """Draw the input image, the most probable classes, and the output of each layer.

    Args:
        image: The input, uint8, (H, W, C); None to draw only the layers.
        layers: Each layer's output without the batch, of any shape; if there is none, the text to show instead.
        probabilities: The probability of each class; empty to draw none.
        labels: The class names, by class index.

    All maps of a layer share one colour scale, whose range is written at the right.
    """
    blocks = [] if image is None else [_header(image, probabilities, labels)]
    for name, output in layers.items():
        blocks.append(_caption(name, output) if isinstance(output, str) else _layer_block(name, output))
    sheet = Image.new("RGB", (WIDTH, sum(block.height for block in blocks) + 2 * MARGIN), BACKGROUND)
    top = MARGIN
    for block in blocks:
        sheet.paste(block, (MARGIN, top))
        top += block.height
    return sheet


def _header(image: Pixels, probabilities: Sequence[float], labels: Sequence[str]) -> Image.Image:
    header = _blank(INPUT + 16)
    rgb = np.repeat(image, 3, axis=-1) if image.shape[-1] == 1 else image[..., :3]
    header.paste(_fitted(np.ascontiguousarray(rgb), INPUT), (0, 0))
    left, top = INPUT + 32, 0
    _write(header, left, top, f"input {_shape(image)}", GREY_TEXT)
    best = sorted(range(len(probabilities)), key=lambda index: -probabilities[index])[:BARS]
    for rank, index in enumerate(best):
        label = labels[index] if index < len(labels) else f"class {index}"
        _draw_bar(header, left, top + 30 + rank * (BAR_HEIGHT + 8), label, probabilities[index])
    return header


def _draw_bar(block: Image.Image, left: int, top: int, label: str, probability: float) -> None:
    draw = ImageDraw.Draw(block)
    bar_left = left + 220
    max_length = block.width - bar_left - 80
    length = round(probability * max_length)
    text = label if len(label) <= MAX_LABEL_LENGTH else f"{label[: MAX_LABEL_LENGTH - 3]}..."
    _write(block, left, top + 2, text, TEXT)
    draw.rectangle((bar_left, top, bar_left + max(1, length), top + BAR_HEIGHT), fill=BAR)
    _write(block, bar_left + length + 8, top + 2, f"{probability:.1%}", TEXT)


def _layer_block(name: str, output: Array) -> Image.Image:
    strip, omitted = _strip(output)
    block = _blank(CAPTION_HEIGHT + strip.height + 8)
    block.paste(_caption(name, f"{_shape(output)}{omitted}"), (0, 0))
    value_range = f"{float(output.min()):.3g} to {float(output.max()):.3g}" if output.size else "empty"
    _write(block, block.width - _text_width(value_range), 4, value_range, GREY_TEXT)
    block.paste(strip, (0, CAPTION_HEIGHT))
    return block


def _caption(name: str, text: str) -> Image.Image:
    caption = _blank(CAPTION_HEIGHT)
    _write(caption, 0, 4, name, TEXT)
    _write(caption, _text_width(name) + 12, 4, text, GREY_TEXT)
    return caption


def _strip(output: Array) -> tuple[Image.Image, str]:
    """Draw an output; also return a text with the number of drawn maps, empty if none is omitted."""
    maps = _maps(output)
    colours = _colours(np.nan_to_num(np.asarray(maps, np.float64)))
    if maps.shape[1] == 1:  # a vector is one row of colours
        return _barcode(colours[0, 0]), ""
    columns = (WIDTH - 2 * MARGIN + GAP) // (TILE + GAP)
    strip = _blank(TILE)
    for index, pixels in enumerate(colours[:columns]):
        strip.paste(_fitted(pixels, TILE), (index * (TILE + GAP), 0))
    return strip, f", first {columns} of {len(maps)} maps" if len(maps) > columns else ""


def _maps(output: Array) -> Array:
    """Reshape an output to (maps, height, width): a map per channel, tokens on their grid; a vector is one row."""
    if output.ndim == 2 and (side := _grid_side(len(output))):
        grid = output[len(output) - side * side :]  # without the class token, which is the first
        return grid.T.reshape(-1, side, side)
    if output.ndim >= 3 and output.shape[-2] * output.shape[-1] > 1:
        return output.reshape(-1, *output.shape[-2:])
    return output.reshape(1, 1, -1)


def _grid_side(tokens: int) -> int:
    """Return the side of the square grid of `tokens`, one of which may be a class token; 0 if they form none."""
    for count in (tokens, tokens - 1):
        side = int(max(count, 0) ** 0.5)
        if side > 1 and side * side == count:
            return side
    return 0


def _colours(values: npt.NDArray[np.float64]) -> Pixels:
    """Map values to RGB on one scale; if both signs occur, zero is in the middle."""
    low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)
    if low < 0 < high:
        limit = max(-low, high)
        return _colour_table(tuple(DIVERGING))[((values / limit + 1) * 127.5).astype(np.uint8)]
    span = (high - low) or 1.0
    return _colour_table(tuple(SEQUENTIAL))[((values - low) / span * 255).astype(np.uint8)]


@cache
def _colour_table(anchors: tuple[tuple[int, int, int], ...]) -> Pixels:
    positions = np.linspace(0, 255, len(anchors))
    channels = [np.interp(np.arange(256), positions, [anchor[channel] for anchor in anchors]) for channel in range(3)]
    return np.stack(channels, axis=-1).astype(np.uint8)


def _barcode(colours: Pixels) -> Image.Image:
    width = WIDTH - 2 * MARGIN
    return Image.fromarray(colours[None]).resize((width, BARCODE_HEIGHT), Image.Resampling.NEAREST)


def _fitted(pixels: Pixels, side: int) -> Image.Image:
    """Fit pixels into a square: nearest neighbour to enlarge, averages to shrink."""
    image = Image.fromarray(pixels)
    scale = side / max(image.size)
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    return image.resize(size, Image.Resampling.NEAREST if scale > 1 else Image.Resampling.BOX)


def _shape(array: Array) -> str:
    return " x ".join(map(str, array.shape))


def _blank(height: int) -> Image.Image:
    return Image.new("RGB", (WIDTH - 2 * MARGIN, height), BACKGROUND)


def _write(block: Image.Image, left: int, top: int, text: str, colour: tuple[int, int, int]) -> None:
    ImageDraw.Draw(block).text((left, top), text, fill=colour, font=_font())


def _text_width(text: str) -> int:
    return round(_font().getlength(text))


@cache
def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size=14)
