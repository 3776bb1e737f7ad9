"""What a page shows of a run: who is taken for whom, the worst mistakes, charts."""

import base64
import io

import numpy as np
import pytest
import torch
from PIL import Image

from zoo.data.splits import MemorySplit
from zoo.report.charts import Series, nice, over_epochs
from zoo.report.confusion import MOST_CLASSES, most_confused, table
from zoo.report.images import MOST_PIXELS, images_of
from zoo.report.mistakes import MOST_MISTAKES, worst_mistakes


def test_the_table_counts_and_shares():
    """Counts as they are, shades by row; a row without images has none."""
    rows = table(torch.tensor([[3, 1], [0, 0]]))
    assert [[(cell.count, cell.share, cell.is_right) for cell in row] for row in rows] == [
        [(3, 0.75, True), (1, 0.25, False)],
        [(0, 0.0, False), (0, 0.0, True)],
    ]


def test_of_many_classes_the_pairs_are_listed():
    """The highest counts first, among equals in the order of the classes; right answers are none of them."""
    counts = 50 * torch.eye(MOST_CLASSES + 1, dtype=torch.int64)
    counts[4, 2], counts[1, 3], counts[0, 5] = 7, 2, 7
    labels = [f"class {index}" for index in range(len(counts))]
    assert table(counts) is None
    pairs = [(pair.truth, pair.answer, pair.count, pair.images) for pair in most_confused(counts, labels)]
    assert pairs == [
        ("class 0", "class 5", 7, 57),
        ("class 4", "class 2", 7, 57),
        ("class 1", "class 3", 2, 52),
    ]


def test_the_worst_mistakes_are_those_of_the_highest_loss(subject):
    """Wrong answers only, with what was said and what is true."""
    evaluation = subject.evaluation
    losses = torch.nn.functional.cross_entropy(evaluation.logits.double(), evaluation.targets, reduction="none")
    wrong = (evaluation.predictions != evaluation.targets).nonzero().flatten().tolist()
    expected = sorted(wrong, key=lambda index: -losses[index])[:MOST_MISTAKES]
    mistakes = worst_mistakes(subject)
    assert [mistake.name for mistake in mistakes] == [f"test {index}" for index in expected]
    assert [mistake.truth[0][0] for mistake in mistakes] == [str(int(evaluation.targets[i])) for i in expected]
    assert [mistake.said[0][0] for mistake in mistakes] == [str(int(evaluation.predictions[i])) for i in expected]
    likely = evaluation.logits.double().softmax(1)
    assert mistakes[0].truth[0][1] == pytest.approx(likely[expected[0], evaluation.targets[expected[0]]].item())


def test_mistakes_of_several_labels(made_up):
    """Name what was missed and what was wrongly said; an image that is right is no mistake."""
    logits = torch.tensor([[5.0, 5.0, -5.0], [5.0, -5.0, -5.0], [-5.0, -5.0, -5.0]])
    targets = torch.tensor([[1, 0, 1], [1, 0, 0], [0, 1, 0]])
    first, second = worst_mistakes(made_up(logits, targets, ("a", "b", "c")))
    assert ([label for label, _ in first.said], [label for label, _ in first.truth]) == (["b"], ["c"])
    assert (second.said, [label for label, _ in second.truth]) == ((), ["b"])


@pytest.mark.parametrize("channels", [1, 3])
def test_a_small_image_is_what_the_net_saw(channels):
    """Pixel by pixel."""
    images = torch.randint(0, 256, (3, 8, 6, channels), dtype=torch.uint8)
    (image,) = images_of(MemorySplit(images, torch.zeros(3, dtype=torch.int64)), torch.tensor([1]))
    decoded = np.array(decode(image.source)).reshape(8, 6, channels)
    assert decoded.tolist() == images[1].tolist()
    assert (image.width, image.height) == (6, 8)


def test_a_large_image_is_made_smaller():
    """So that a page of many stays small."""
    images = torch.full((1, 300, 600, 3), 130, dtype=torch.uint8)
    (image,) = images_of(MemorySplit(images, torch.zeros(1, dtype=torch.int64)), torch.tensor([0]))
    assert decode(image.source).size == (MOST_PIXELS, MOST_PIXELS // 2)


def test_odd_channels_are_shown_as_their_mean():
    """Neither grey nor RGB."""
    images = torch.tensor([10, 20, 30, 60], dtype=torch.uint8).expand(1, 4, 4, 4).contiguous()
    (image,) = images_of(MemorySplit(images, torch.zeros(1, dtype=torch.int64)), torch.tensor([0]))
    assert np.array(decode(image.source)).tolist() == [[30] * 4] * 4


def test_a_signal_is_a_curve():
    """One for each channel, from left to right, 255 at the top."""
    values = torch.tensor([[[0, 255], [255, 0], [0, 0]]], dtype=torch.uint8).unsqueeze(0)  # (1, 1, 3, 2)
    (image,) = images_of(MemorySplit(values, torch.zeros(1, dtype=torch.int64)), torch.tensor([0]))
    assert image.curves == ("0.0,60.0 60.0,0.0 120.0,60.0", "0.0,0.0 60.0,60.0 120.0,60.0")


def test_a_chart_puts_values_in_order():
    """Higher values are higher up, later ones further right; what is no number is left out."""
    chart = over_epochs("Loss", [1, 2, 3], [Series("loss", "train", (3.0, float("nan"), 1.0))], best=3)
    (x1, y1), (x2, y2) = chart.lines[0].points
    assert (x1, x2) == (chart.left, chart.right)
    assert chart.top <= y1 < y2 <= chart.bottom
    assert chart.best_x == chart.right


@pytest.mark.parametrize(
    ("low", "high", "marks"),
    [(0.0, 1.0, [0, 0.25, 0.5, 0.75, 1]), (0.13, 1.4, [0, 0.5, 1, 1.5]), (2.0, 2.0, [2.0, 2.5]), (0.0, 0.0, [0, 0.25])],
)
def test_marks_are_round(low, high, marks):
    """And hold all values between them."""
    assert nice(low, high, most=5) == pytest.approx(marks)


def decode(source: str) -> Image.Image:
    """The image of a data URI."""
    return Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2])))
