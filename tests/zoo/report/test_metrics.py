"""The numbers of a report, against scikit-learn's."""

import pytest
import torch
from sklearn.metrics import average_precision_score, confusion_matrix, precision_recall_fscore_support

from zoo.report.metrics import class_scores, confusion, interval, mean_average_precision, right_answers


def test_classes_are_scored_as_by_scikit_learn(subject):
    """Precision, recall, F1 and the number of images of each class, and the confusion counts."""
    targets, answers = subject.evaluation.targets, subject.evaluation.predictions
    precision, recall, f1, images = precision_recall_fscore_support(targets, answers)
    scores = class_scores(subject)
    assert [score.precision for score in scores] == pytest.approx(list(precision))
    assert [score.recall for score in scores] == pytest.approx(list(recall))
    assert [score.f1 for score in scores] == pytest.approx(list(f1))
    assert [score.images for score in scores] == list(images)
    assert confusion(subject).tolist() == confusion_matrix(targets, answers).tolist()
    assert sum(score.trained_on for score in scores) == len(subject.data.train)


def test_the_right_answers_are_the_accuracy(subject):
    """Which lies within its interval."""
    right = right_answers(subject)
    assert right.value == pytest.approx(subject.evaluation.accuracy)
    assert right.low < right.value < right.high


@pytest.mark.parametrize(
    ("right", "images", "low", "high"), [(8, 10, 0.4902, 0.9433), (10, 10, 0.7225, 1.0), (0, 10, 0.0, 0.2775)]
)
def test_the_interval_is_wilsons(right, images, low, high):
    """Values of the published formula; a share of 1 or 0 has an interval, too."""
    found = interval(right, images)
    assert (found.low, found.high) == (pytest.approx(low, abs=1e-4), pytest.approx(high, abs=1e-4))


def test_what_cannot_be_divided_is_no_number(made_up):
    """A class without images has no recall, one that is never answered no precision."""
    scores = class_scores(made_up(torch.tensor([[1.0, 0, 0], [1.0, 0, 0]]), torch.tensor([0, 1]), ("a", "b", "c")))
    assert [score.precision for score in scores] == [0.5, None, None]
    assert [score.recall for score in scores] == [1.0, 0.0, None]
    assert [score.f1 for score in scores] == [pytest.approx(2 / 3), 0.0, None]


def test_labels_are_scored_one_by_one(made_up):
    """Where an image may have several: average precision as scikit-learn has it, the rest at a probability of 0.5."""
    generator = torch.Generator().manual_seed(0)
    targets = (torch.rand(200, 3, generator=generator) < 0.3).float()
    targets[:, 2] = 0
    logits = 2 * targets - 1 + torch.randn(200, 3, generator=generator)
    scored = made_up(logits, targets, ("a", "b", "never"))
    scores = class_scores(scored)
    expected = [average_precision_score(targets[:, label], logits[:, label]) for label in range(2)]
    assert [score.average_precision for score in scores] == [*map(pytest.approx, expected), None]
    assert mean_average_precision(scores) == pytest.approx(sum(expected) / 2)
    precision, recall, _, _ = precision_recall_fscore_support(targets[:, :2], logits[:, :2] > 0)
    assert [score.precision for score in scores[:2]] == pytest.approx(list(precision))
    assert [score.recall for score in scores[:2]] == pytest.approx(list(recall))
    assert right_answers(scored).right == int(((logits > 0) == (targets > 0)).all(1).sum())
