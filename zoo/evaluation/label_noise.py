"""Likely label errors, found with predictions of networks that were not trained on the images.

Confident learning, after C. G. Northcutt, L. Jiang and I. L. Chuang, "Confident learning: estimating uncertainty in
dataset labels", JAIR 70 (2021), arXiv:1911.00068: the threshold of a class is the mean probability of that class over
the images labelled with it (equation 2); a label is suspicious if, among the classes that reach their thresholds, the
most probable one is another (equation 1). Suspicious labels are ranked first, the others after them, both by the
normalised margin: the probability of the label minus the highest probability of another class (section 3.2.1).
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

COLUMNS, MAX_TILES = 8, 64
TILE, GAP, CAPTION, HEADER = 112, 14, 40, 62  # pixels
BACKGROUND, TEXT, FAINT, SUSPICIOUS = (252, 252, 250), (28, 28, 32), (120, 120, 128), (176, 36, 28)
CAPTION_SIZE = 14


@dataclass(frozen=True)
class LabelIssue:
    """How likely an image's label is wrong.

    Attributes:
        index: the image's index.
        label: its label, as the index of a class.
        suggestion: the most probable other class.
        margin: probability of the label minus that of the most probable other class, -1..1; lower is more likely wrong.
        is_suspicious: whether another class reaches its threshold with the highest probability.
    """

    index: int
    label: int
    suggestion: int
    margin: float
    is_suspicious: bool


def rank_label_issues(probabilities: Tensor, targets: Tensor) -> list[LabelIssue]:
    """Return one issue per image, the most likely label errors first.

    `probabilities` is (N, classes), of networks that were not trained on the image; `targets` the labels, (N,).
    """
    label_probability = probabilities.gather(1, targets[:, None]).squeeze(1)
    other_probability, other_class = probabilities.scatter(1, targets[:, None], -1.0).max(dim=1)
    reaching = torch.where(probabilities >= thresholds(probabilities, targets), probabilities, -1.0)
    confident_probability, confident_class = reaching.max(dim=1)
    suspicious = (confident_probability >= 0) & (confident_class != targets)
    suggestions = torch.where(suspicious, confident_class, other_class)
    margins = label_probability - other_probability
    columns = zip(targets.tolist(), suggestions.tolist(), margins.tolist(), suspicious.tolist(), strict=True)
    issues = [LabelIssue(index, *values) for index, values in enumerate(columns)]
    return sorted(issues, key=lambda issue: (not issue.is_suspicious, issue.margin))


def thresholds(probabilities: Tensor, targets: Tensor) -> Tensor:
    """Return each class's mean probability over the images labelled with it, (classes,); 2 for a class without any."""
    means = [
        probabilities[targets == label, label].mean() if bool((targets == label).any()) else torch.tensor(2.0)
        for label in range(probabilities.shape[1])
    ]
    return torch.stack(means)


def image_names(splits: dict[str, Split]) -> list[str]:
    """Return each image's file, or the split's name and the image's index in it for images without files."""
    return [
        str(split.files[index]) if isinstance(split, FileSplit) else f"{name} {index}"
        for name, split in splits.items()
        for index in range(len(split))
    ]


def issues_csv(issues: Sequence[LabelIssue], names: Sequence[str], labels: Sequence[str]) -> bytes:
    """Return a CSV table with one row per issue; `names` are the images' names, by index."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["image", "label", "suggestion", "margin", "suspicious"])
    for issue in issues:
        suspicious = "yes" if issue.is_suspicious else "no"
        writer.writerow(
            [names[issue.index], labels[issue.label], labels[issue.suggestion], f"{issue.margin:.4f}", suspicious]
        )
    return out.getvalue().encode()


def issue_sheet(issues: Sequence[LabelIssue], split: Split, labels: Sequence[str]) -> bytes:
    """Return a PNG of the first MAX_TILES issues: the images as networks see them, with labels and suggestions."""
    tiles = list(issues[:MAX_TILES])
    rows = -(-len(tiles) // COLUMNS)
    sheet = Image.new("RGB", (COLUMNS * (TILE + GAP) + GAP, HEADER + rows * (TILE + CAPTION + GAP)), BACKGROUND)
    count = sum(issue.is_suspicious for issue in issues)
    title = f"{count} of {len(issues)} labels are suspicious; the {len(tiles)} most likely errors"
    legend = "red: suspicious. First line: the label. Second line: the most probable other class."
    pen = ImageDraw.Draw(sheet)
    pen.text((GAP, 10), title, TEXT, _font(17))
    pen.text((GAP, 34), legend, FAINT, _font(13))
    images = split.batches([torch.tensor([issue.index]) for issue in tiles])
    for position, (issue, image) in enumerate(zip(tiles, images, strict=True)):
        row, column = divmod(position, COLUMNS)
        corner = (GAP + column * (TILE + GAP), HEADER + row * (TILE + CAPTION + GAP))
        _draw_tile(sheet, corner, image[0], issue, labels)
    png = io.BytesIO()
    sheet.save(png, "PNG")
    return png.getvalue()


def _draw_tile(
    sheet: Image.Image, corner: tuple[int, int], image: Tensor, issue: LabelIssue, labels: Sequence[str]
) -> None:
    left, top = corner
    sheet.paste(_thumbnail(image), corner)
    pen = ImageDraw.Draw(sheet)
    colour = SUSPICIOUS if issue.is_suspicious else TEXT
    font = _font(CAPTION_SIZE)
    pen.text((left, top + TILE + 2), _truncated(pen, f"label {labels[issue.label]}"), colour, font)
    pen.text((left, top + TILE + 20), _truncated(pen, f"or {labels[issue.suggestion]}"), TEXT, font)


def _thumbnail(image: Tensor) -> Image.Image:
    """Return a uint8 (H, W, C) image fitted into a square tile; a signal is stretched to a square."""
    pixels = image.numpy()
    rgb = Image.fromarray(pixels if pixels.shape[2] == 3 else pixels[:, :, 0]).convert("RGB")
    stretched = rgb.resize((rgb.width, rgb.width)) if rgb.height == 1 else rgb
    scale = TILE / max(stretched.size)
    size = (max(1, round(stretched.width * scale)), max(1, round(stretched.height * scale)))
    resized = stretched.resize(size, Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS)
    tile = Image.new("RGB", (TILE, TILE), BACKGROUND)
    tile.paste(resized, ((TILE - size[0]) // 2, (TILE - size[1]) // 2))
    return tile


def _truncated(pen: ImageDraw.ImageDraw, text: str) -> str:
    """Return the text, shortened with an ellipsis if it is wider than a tile."""
    font = _font(CAPTION_SIZE)
    if pen.textlength(text, font) <= TILE:
        return text
    while pen.textlength(text + "…", font) > TILE:
        text = text[:-1]
    return text + "…"


@cache
def _font(size: int) -> Any:
    return ImageFont.load_default(size)
