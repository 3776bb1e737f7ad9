"""Which labels are likely to be wrong, by what networks say that have not learned from them.

Confident learning, after C. G. Northcutt, L. Jiang and I. L. Chuang, "Confident learning: estimating uncertainty in
dataset labels", JAIR 70 (2021), arXiv:1911.00068: the threshold of a class is the mean probability that its own
images get for it (equation 2); a label is suspicious if, among the classes that reach their thresholds, the most
probable one is another (equation 1). Suspicious labels come first, the rest after them, each by the normalised margin:
the label's probability less the highest of the other classes (section 3.2.1).
"""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from zoo.data.splits import FileSplit, Split

COLUMNS, MOST_SHOWN = 8, 64
TILE, GAP, CAPTION, HEAD = 112, 14, 40, 62
PAPER, INK, FAINT, ALARM = (252, 252, 250), (28, 28, 32), (120, 120, 128), (176, 36, 28)


@dataclass(frozen=True)
class LabelIssue:
    """How far an image's label is to be doubted; the lower the `margin`, -1 to 1, the further."""

    index: int
    label: int
    suggestion: int
    margin: float
    is_suspicious: bool


def rank_doubts(probabilities: Tensor, targets: Tensor) -> list[LabelIssue]:
    """All images, the most doubtful first.

    `probabilities` is (N, classes), of networks that have not learned from the image; `targets` the labels, (N,).
    """
    own = probabilities.gather(1, targets[:, None]).squeeze(1)
    others = probabilities.scatter(1, targets[:, None], -1.0)
    highest, most_probable = others.max(dim=1)
    reached = torch.where(probabilities >= thresholds(probabilities, targets), probabilities, -1.0)
    confident, found = reached.max(dim=1)
    suspicious = (confident >= 0) & (found != targets)
    suggestions = torch.where(suspicious, found, most_probable)
    rows = zip(targets.tolist(), suggestions.tolist(), (own - highest).tolist(), suspicious.tolist(), strict=True)
    doubts = [LabelIssue(index, *row) for index, row in enumerate(rows)]
    return sorted(doubts, key=lambda doubt: (not doubt.is_suspicious, doubt.margin))


def thresholds(probabilities: Tensor, targets: Tensor) -> Tensor:
    """For each class the mean probability that the images labelled so get for it, (classes,); 2 where none is."""
    means = [
        probabilities[targets == label, label].mean() if bool((targets == label).any()) else torch.tensor(2.0)
        for label in range(probabilities.shape[1])
    ]
    return torch.stack(means)


def image_names(splits: dict[str, Split]) -> list[str]:
    """The images' files, or else the split's name and the image's index in it, counted from 0."""
    return [
        str(split.files[index]) if isinstance(split, FileSplit) else f"{name} {index}"
        for name, split in splits.items()
        for index in range(len(split))
    ]


def as_csv(doubts: Sequence[LabelIssue], names: Sequence[str], labels: Sequence[str]) -> bytes:
    """A row for each image, the most doubtful first."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["image", "label", "suggestion", "margin", "suspicious"])
    for doubt in doubts:
        names_of = (labels[doubt.label], labels[doubt.suggestion])
        writer.writerow([names[doubt.index], *names_of, f"{doubt.margin:.4f}", "yes" if doubt.is_suspicious else "no"])
    return out.getvalue().encode()


def as_sheet(doubts: Sequence[LabelIssue], split: Split, labels: Sequence[str]) -> bytes:
    """A PNG of the MOST_SHOWN most doubtful images as the networks see them, with their given and suggested labels."""
    shown = list(doubts[:MOST_SHOWN])
    rows = -(-len(shown) // COLUMNS)
    sheet = Image.new("RGB", (COLUMNS * (TILE + GAP) + GAP, HEAD + rows * (TILE + CAPTION + GAP)), PAPER)
    pen = ImageDraw.Draw(sheet)
    count = sum(doubt.is_suspicious for doubt in doubts)
    pen.text(
        (GAP, 10), f"{count} of {len(doubts)} labels are suspicious; the {len(shown)} most doubtful", INK, _font(17)
    )
    pen.text(
        (GAP, 34),
        "red: suspicious. Above the label that is given, below the most probable other one.",
        FAINT,
        _font(13),
    )
    images = split.batches([torch.tensor([doubt.index]) for doubt in shown])
    for place, (doubt, image) in enumerate(zip(shown, images, strict=True)):
        row, column = divmod(place, COLUMNS)
        corner = (GAP + column * (TILE + GAP), HEAD + row * (TILE + CAPTION + GAP))
        _tile(sheet, corner, image[0], doubt, labels)
    data = io.BytesIO()
    sheet.save(data, "PNG")
    return data.getvalue()


def _tile(sheet: Image.Image, corner: tuple[int, int], image: Tensor, doubt: LabelIssue, labels: Sequence[str]) -> None:
    left, top = corner
    sheet.paste(_square(image), corner)
    pen = ImageDraw.Draw(sheet)
    colour = ALARM if doubt.is_suspicious else INK
    pen.text((left, top + TILE + 2), _fitting(pen, f"given {labels[doubt.label]}"), colour, _font(14))
    pen.text((left, top + TILE + 20), _fitting(pen, f"or {labels[doubt.suggestion]}"), INK, _font(14))


def _square(image: Tensor) -> Image.Image:
    pixels = image.numpy()  # (H, W, C)
    shown = Image.fromarray(pixels if pixels.shape[2] == 3 else pixels[:, :, 0]).convert("RGB")
    stretched = shown.resize((shown.width, shown.width)) if shown.height == 1 else shown  # a signal
    scale = TILE / max(stretched.size)
    size = (max(1, round(stretched.width * scale)), max(1, round(stretched.height * scale)))
    resized = stretched.resize(size, Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS)
    square = Image.new("RGB", (TILE, TILE), PAPER)
    square.paste(resized, ((TILE - size[0]) // 2, (TILE - size[1]) // 2))
    return square


def _fitting(pen: Any, text: str) -> str:
    """As much of the text as a tile is wide."""
    if pen.textlength(text, _font(14)) <= TILE:
        return text
    while pen.textlength(text + "…", _font(14)) > TILE:
        text = text[:-1]
    return text + "…"


@cache
def _font(size: int) -> Any:
    return ImageFont.load_default(size)
