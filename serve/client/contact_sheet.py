"""A contact sheet: one image on which every layer's response to an image can be looked at."""

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

Array = npt.NDArray[Any]
Pixels = npt.NDArray[np.uint8]

WIDTH, MARGIN, GAP = 1120, 24, 4
TILE = 63  # pixels, the side of one channel's map
INPUT = 176
BAR_HEIGHT, BARS = 20, 5
LABEL_HEIGHT, BARCODE_HEIGHT = 24, 22
PAPER, INK, FAINT, BAR = (252, 252, 250), (28, 28, 32), (128, 128, 136), (60, 92, 150)

# Anchors of two colour scales, dark to light: one for values of one sign, one around zero.
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
    image: Pixels, layers: Mapping[str, Array | str], probabilities: Sequence[float] = (), labels: Sequence[str] = ()
) -> Image.Image:
    """Draw `image`, uint8 (H, W, C), the class probabilities, and each layer's response, any shape, without the batch.

    A layer that has nothing to show comes with the words that say why; it takes a line. Within a layer all maps share
    one scale, which stands at the right.
    """
    blocks = [_head(image, probabilities, labels), *_blocks(layers)]
    sheet = Image.new("RGB", (WIDTH, sum(block.height for block in blocks) + 2 * MARGIN), PAPER)
    top = MARGIN
    for block in blocks:
        sheet.paste(block, (MARGIN, top))
        top += block.height
    return sheet


def _blocks(layers: Mapping[str, Array | str]) -> Iterator[Image.Image]:
    for name, response in layers.items():
        yield _line(name, response) if isinstance(response, str) else _layer(name, response)


def _line(name: str, words: str) -> Image.Image:
    line = _paper(LABEL_HEIGHT)
    _text(line, 0, 4, name, INK)
    _text(line, _text_width(name) + 12, 4, words, FAINT)
    return line


def _layer(name: str, response: Array) -> Image.Image:
    strip, shown = _strip(response)
    block = _paper(LABEL_HEIGHT + strip.height + 8)
    block.paste(_line(name, f"{_shape(response)}{shown}"), (0, 0))
    scale = f"{_number(response.min())} to {_number(response.max())}" if response.size else "empty"
    _text(block, block.width - _text_width(scale), 4, scale, FAINT)
    block.paste(strip, (0, LABEL_HEIGHT))
    return block


def _shape(response: Array) -> str:
    return " x ".join(map(str, response.shape))


def _strip(response: Array) -> tuple[Image.Image, str]:
    """The image of a response, and what to say where not all of it is shown."""
    maps = _maps(response)
    colours = _colours(np.nan_to_num(np.asarray(maps, np.float64)))
    if maps.shape[1] == 1:  # vectors: one barcode each, the first only
        return _barcode(colours[0, 0]), ""
    columns = (WIDTH - 2 * MARGIN + GAP) // (TILE + GAP)
    shown = colours[:columns]
    strip = _paper(TILE)
    for index, pixels in enumerate(shown):
        strip.paste(_enlarged(pixels, TILE), (index * (TILE + GAP), 0))
    return strip, "" if len(shown) == len(maps) else f", the first {len(shown)}"


def _maps(response: Array) -> Array:
    """Give a response as (maps, height, width): channels of an image, or of tokens on a grid; a vector is one row."""
    if response.ndim == 2 and (side := _grid_side(len(response))):
        grid = response[len(response) - side * side :]  # a class token comes first
        return grid.T.reshape(-1, side, side)
    if response.ndim >= 3 and response.shape[-2] * response.shape[-1] > 1:
        return response.reshape(-1, *response.shape[-2:])
    return response.reshape(1, 1, -1)


def _grid_side(tokens: int) -> int:
    """Return the side of the square grid that `tokens` fill, one of them maybe a class token; 0 where they do not."""
    for count in (tokens, tokens - 1):
        side = int(max(count, 0) ** 0.5)
        if side > 1 and side * side == count:
            return side
    return 0


def _colours(values: npt.NDArray[np.float64]) -> Pixels:
    """Map values to RGB, all on one scale: around zero when both signs occur."""
    low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)
    if low < 0 < high:
        reach = max(-low, high)
        return _ramp(tuple(DIVERGING))[((values / reach + 1) * 127.5).astype(np.uint8)]
    span = (high - low) or 1.0
    return _ramp(tuple(SEQUENTIAL))[((values - low) / span * 255).astype(np.uint8)]


@cache
def _ramp(anchors: tuple[tuple[int, int, int], ...]) -> Pixels:
    places = np.linspace(0, 255, len(anchors))
    channels = [np.interp(np.arange(256), places, [anchor[channel] for anchor in anchors]) for channel in range(3)]
    return np.stack(channels, axis=-1).astype(np.uint8)


def _barcode(colours: Pixels) -> Image.Image:
    width = WIDTH - 2 * MARGIN
    return Image.fromarray(colours[None]).resize((width, BARCODE_HEIGHT), Image.Resampling.NEAREST)


def _enlarged(pixels: Pixels, side: int) -> Image.Image:
    """Fit pixels into a square: hard edges when they grow, averages when they shrink."""
    drawn = Image.fromarray(pixels)
    scale = side / max(drawn.size)
    size = max(1, round(drawn.width * scale)), max(1, round(drawn.height * scale))
    return drawn.resize(size, Image.Resampling.NEAREST if scale > 1 else Image.Resampling.BOX)


def _head(image: Pixels, probabilities: Sequence[float], labels: Sequence[str]) -> Image.Image:
    head = _paper(INPUT + 16)
    rgb = np.repeat(image, 3, axis=-1) if image.shape[-1] == 1 else image[..., :3]
    head.paste(_enlarged(np.ascontiguousarray(rgb), INPUT), (0, 0))
    left, top = INPUT + 32, 0
    _text(head, left, top, f"input {_shape(image)}", FAINT)
    best = sorted(range(len(probabilities)), key=lambda index: -probabilities[index])[:BARS]
    for place, index in enumerate(best):
        label = labels[index] if index < len(labels) else f"class {index}"
        _bar(head, left, top + 30 + place * (BAR_HEIGHT + 8), label, probabilities[index])
    return head


def _bar(block: Image.Image, left: int, top: int, label: str, share: float) -> None:
    draw = ImageDraw.Draw(block)
    name = label if len(label) <= 32 else label[:29] + "..."
    bar_left = left + 220
    longest = block.width - bar_left - 80
    _text(block, left, top + 2, name, INK)
    draw.rectangle((bar_left, top, bar_left + max(1, round(share * longest)), top + BAR_HEIGHT), fill=BAR)
    _text(block, bar_left + round(share * longest) + 8, top + 2, f"{share:.1%}", INK)


def _paper(height: int) -> Image.Image:
    return Image.new("RGB", (WIDTH - 2 * MARGIN, height), PAPER)


def _text(block: Image.Image, left: int, top: int, text: str, colour: tuple[int, int, int]) -> None:
    ImageDraw.Draw(block).text((left, top), text, fill=colour, font=_font())


def _text_width(text: str) -> int:
    return round(_font().getlength(text))


@cache
def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size=14)


def _number(value: float) -> str:
    return f"{float(value):.3g}"
