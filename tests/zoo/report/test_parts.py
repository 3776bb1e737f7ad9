"""The parts of a report: confusion matrix, worst mistakes, images and charts."""

import base64
import io

import numpy as np
import pytest
import torch
from PIL import Image

from zoo.data.splits import MemorySplit
from zoo.report.charts import Series, over_epochs, round_ticks
from zoo.report.confusion import MAX_CLASSES, confusion_table, most_confused
from zoo.report.images import MAX_PIXELS, images_of
from zoo.report.mistakes import MAX_MISTAKES, worst_mistakes


def test_confusion_table():
    """Cells have counts and their share of the row; the shares of a row without images are 0."""
    rows = confusion_table(torch.tensor([[3, 1], [0, 0]]))
    assert [[(cell.count, cell.share, cell.is_correct) for cell in row] for row in rows] == [
        [(3, 0.75, True), (1, 0.25, False)],
        [(0, 0.0, False), (0, 0.0, True)],
    ]


def test_most_confused_pairs():
    """Pairs are sorted by count, then in the order of the classes, and exclude correct predictions."""
    counts = 50 * torch.eye(MAX_CLASSES + 1, dtype=torch.int64)
    counts[4, 2], counts[1, 3], counts[0, 5] = 7, 2, 7
    labels = [f"class {index}" for index in range(len(counts))]
    assert confusion_table(counts) is None
    pairs = [(pair.truth, pair.prediction, pair.count, pair.images) for pair in most_confused(counts, labels)]
    assert pairs == [
        ("class 0", "class 5", 7, 57),
        ("class 4", "class 2", 7, 57),
        ("class 1", "class 3", 2, 52),
    ]


def test_worst_mistakes_have_the_highest_loss(evaluated_run):
    """The worst mistakes are misclassified images by loss, with predicted and true class."""
    evaluation = evaluated_run.evaluation
    losses = torch.nn.functional.cross_entropy(evaluation.logits.double(), evaluation.targets, reduction="none")
    misclassified = (evaluation.predictions != evaluation.targets).nonzero().flatten().tolist()
    expected = sorted(misclassified, key=lambda index: -losses[index])[:MAX_MISTAKES]
    mistakes = worst_mistakes(evaluated_run)
    assert [mistake.name for mistake in mistakes] == [f"test {index}" for index in expected]
    assert [mistake.truth[0][0] for mistake in mistakes] == [str(int(evaluation.targets[i])) for i in expected]
    assert [mistake.predicted[0][0] for mistake in mistakes] == [str(int(evaluation.predictions[i])) for i in expected]
    probabilities = evaluation.logits.double().softmax(1)
    assert mistakes[0].truth[0][1] == pytest.approx(probabilities[expected[0], evaluation.targets[expected[0]]].item())


def test_multi_label_mistakes(make_evaluated_run):
    """A mistake has the missed and the wrongly predicted labels; a correct image is no mistake."""
    logits = torch.tensor([[5.0, 5.0, -5.0], [5.0, -5.0, -5.0], [-5.0, -5.0, -5.0]])
    targets = torch.tensor([[1, 0, 1], [1, 0, 0], [0, 1, 0]])
    first, second = worst_mistakes(make_evaluated_run(logits, targets, ("a", "b", "c")))
    assert ([label for label, _ in first.predicted], [label for label, _ in first.truth]) == (["b"], ["c"])
    assert (second.predicted, [label for label, _ in second.truth]) == ((), ["b"])


@pytest.mark.parametrize("channels", [1, 3])
def test_small_image_is_lossless(channels):
    """A small image is stored pixel by pixel."""
    images = torch.randint(0, 256, (3, 8, 6, channels), dtype=torch.uint8)
    (image,) = images_of(MemorySplit(images, torch.zeros(3, dtype=torch.int64)), torch.tensor([1]))
    decoded = np.array(decode(image.source)).reshape(8, 6, channels)
    assert decoded.tolist() == images[1].tolist()
    assert (image.width, image.height) == (6, 8)


def test_large_image_is_scaled_down():
    """A large image becomes a thumbnail, so that the page stays small."""
    images = torch.full((1, 300, 600, 3), 130, dtype=torch.uint8)
    (image,) = images_of(MemorySplit(images, torch.zeros(1, dtype=torch.int64)), torch.tensor([0]))
    assert decode(image.source).size == (MAX_PIXELS, MAX_PIXELS // 2)


def test_other_channels_are_averaged():
    """An image that is neither grey nor RGB is shown as the mean of its channels."""
    images = torch.tensor([10, 20, 30, 60], dtype=torch.uint8).expand(1, 4, 4, 4).contiguous()
    (image,) = images_of(MemorySplit(images, torch.zeros(1, dtype=torch.int64)), torch.tensor([0]))
    assert np.array(decode(image.source)).tolist() == [[30] * 4] * 4


def test_signal_is_a_curve_per_channel():
    """A signal has one curve per channel, from left to right, with 255 at the top."""
    values = torch.tensor([[[0, 255], [255, 0], [0, 0]]], dtype=torch.uint8).unsqueeze(0)  # (1, 1, 3, 2)
    (image,) = images_of(MemorySplit(values, torch.zeros(1, dtype=torch.int64)), torch.tensor([0]))
    assert image.curves == ("0.0,60.0 60.0,0.0 120.0,60.0", "0.0,0.0 60.0,60.0 120.0,60.0")


def test_chart_coordinates():
    """Higher values are higher up, later ones further right, and NaN has no point."""
    chart = over_epochs("Loss", [1, 2, 3], [Series("loss", "train", (3.0, float("nan"), 1.0))], best=3)
    (x1, y1), (x2, y2) = chart.lines[0].points
    assert (x1, x2) == (chart.left, chart.right)
    assert chart.top <= y1 < y2 <= chart.bottom
    assert chart.best_x == chart.right


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [(0.0, 1.0, [0, 0.25, 0.5, 0.75, 1]), (0.13, 1.4, [0, 0.5, 1, 1.5]), (2.0, 2.0, [2.0, 2.5]), (0.0, 0.0, [0, 0.25])],
)
def test_ticks_are_round_numbers(low, high, ticks):
    """Ticks are round numbers whose range contains the values."""
    assert round_ticks(low, high, max_intervals=5) == pytest.approx(ticks)


def decode(source: str) -> Image.Image:
    """Decode the image of a data URI."""
    return Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2])))
