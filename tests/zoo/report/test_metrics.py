"""The metrics of a report, compared with scikit-learn's."""

import pytest
import torch
from sklearn.metrics import average_precision_score, confusion_matrix, precision_recall_fscore_support

from zoo.report.metrics import accuracy, class_scores, confusion, interval, mean_average_precision


def test_class_scores_match_scikit_learn(evaluated_run):
    """Precision, recall, F1 and image count of each class, and the confusion matrix, match scikit-learn."""
    targets, predictions = evaluated_run.evaluation.targets, evaluated_run.evaluation.predictions
    precision, recall, f1, images = precision_recall_fscore_support(targets, predictions)
    scores = class_scores(evaluated_run)
    assert [score.precision for score in scores] == pytest.approx(list(precision))
    assert [score.recall for score in scores] == pytest.approx(list(recall))
    assert [score.f1 for score in scores] == pytest.approx(list(f1))
    assert [score.images for score in scores] == list(images)
    assert confusion(evaluated_run).tolist() == confusion_matrix(targets, predictions).tolist()
    assert sum(score.trained_on for score in scores) == len(evaluated_run.data.train)


def test_accuracy_is_that_of_the_evaluation(evaluated_run):
    """The accuracy equals the evaluation's and lies within its interval."""
    proportion = accuracy(evaluated_run)
    assert proportion.value == pytest.approx(evaluated_run.evaluation.accuracy)
    assert proportion.low < proportion.value < proportion.high


@pytest.mark.parametrize(
    ("correct", "images", "low", "high"), [(8, 10, 0.4902, 0.9433), (10, 10, 0.7225, 1.0), (0, 10, 0.0, 0.2775)]
)
def test_interval_is_wilsons(correct, images, low, high):
    """The interval has the values of Wilson's formula, also for proportions of 0 and 1."""
    proportion = interval(correct, images)
    assert (proportion.low, proportion.high) == (pytest.approx(low, abs=1e-4), pytest.approx(high, abs=1e-4))


def test_undefined_scores_are_none(make_evaluated_run):
    """A class without images has no recall, and one that is never predicted has no precision."""
    scores = class_scores(
        make_evaluated_run(torch.tensor([[1.0, 0, 0], [1.0, 0, 0]]), torch.tensor([0, 1]), ("a", "b", "c"))
    )
    assert [score.precision for score in scores] == [0.5, None, None]
    assert [score.recall for score in scores] == [1.0, 0.0, None]
    assert [score.f1 for score in scores] == [pytest.approx(2 / 3), 0.0, None]


def test_multi_label_scores_match_scikit_learn(make_evaluated_run):
    """Average precision matches scikit-learn; precision and recall are those at a probability of 0.5."""
    generator = torch.Generator().manual_seed(0)
    targets = (torch.rand(200, 3, generator=generator) < 0.3).float()
    targets[:, 2] = 0
    logits = 2 * targets - 1 + torch.randn(200, 3, generator=generator)
    evaluated = make_evaluated_run(logits, targets, ("a", "b", "never"))
    scores = class_scores(evaluated)
    expected = [average_precision_score(targets[:, label], logits[:, label]) for label in range(2)]
    assert [score.average_precision for score in scores] == [*map(pytest.approx, expected), None]
    assert mean_average_precision(scores) == pytest.approx(sum(expected) / 2)
    precision, recall, _, _ = precision_recall_fscore_support(targets[:, :2], logits[:, :2] > 0)
    assert [score.precision for score in scores[:2]] == pytest.approx(list(precision))
    assert [score.recall for score in scores[:2]] == pytest.approx(list(recall))
    assert accuracy(evaluated).correct == int(((logits > 0) == (targets > 0)).all(1).sum())
