"""What targets mean for the loss, the weights and the draw."""

import pytest
import torch
import torch.nn.functional as F

from zoo.data.targets import balanced_draws, class_weights, make_loss, rarest_label, task_of

CLASSES = torch.tensor([0] * 8 + [1] * 2 + [2] * 2)
LABELS = torch.tensor([[1, 0, 0], [1, 0, 0], [1, 1, 0], [0, 0, 0]])


def test_the_shape_tells_the_task():
    """A column for each label."""
    assert (task_of(CLASSES), task_of(LABELS)) == ("single-label", "multi-label")


def test_the_loss_of_labels_is_binary_cross_entropy():
    """The mean over images and labels; smoothing moves targets a share of the way to one half."""
    logits = torch.tensor([[2.0, -1.0], [0.5, 3.0]])
    targets = torch.tensor([[1, 0], [0, 1]])
    plain = F.binary_cross_entropy(logits.sigmoid(), targets.float())
    torch.testing.assert_close(make_loss("multi-label", 0.0)(logits, targets), plain)
    smooth = F.binary_cross_entropy(logits.sigmoid(), torch.tensor([[0.9, 0.1], [0.1, 0.9]]))
    torch.testing.assert_close(make_loss("multi-label", 0.2)(logits, targets), smooth)


def test_weights_of_classes_are_inverse_frequencies_of_mean_one():
    """A class four times as rare counts four times as much."""
    weights = class_weights(CLASSES, 3)
    torch.testing.assert_close(weights, torch.tensor([0.5, 2.0, 2.0]))
    assert weights[CLASSES].mean().item() == pytest.approx(1)


def test_weights_of_labels_are_absent_to_present():
    """A label that all or none have counts 1."""
    targets = torch.tensor([[1, 0, 1], [0, 0, 1], [0, 0, 1], [0, 0, 1]])
    assert class_weights(targets, 3).tolist() == [3, 1, 1]
    loss = make_loss("multi-label", 0.0, torch.tensor([3.0, 1.0, 1.0]))
    logits = torch.zeros(1, 3)
    alone, other = (loss(logits, torch.tensor([each])) for each in ([1, 0, 0], [0, 1, 0]))
    assert (alone / other).item() == pytest.approx(5 / 3)


def test_draws_are_balanced():
    """Each class about as often, whatever its size; a repeated draw has a number of its own."""
    targets = torch.tensor([0] * 900 + [1] * 90 + [2] * 10)
    torch.manual_seed(0)
    draws = balanced_draws(targets, 3)
    assert (len(draws), len(draws.unique())) == (1000, 1000)
    counts = targets[draws % 1000].bincount()
    assert counts.sub(333).abs().max() < 60
    rare = (draws % 1000) == 995
    assert sorted((draws[rare] // 1000).tolist()) == list(range(int(rare.sum())))


def test_draws_follow_the_seed():
    """And nothing else."""
    torch.manual_seed(3)
    first = balanced_draws(CLASSES, 3)
    torch.manual_seed(3)
    assert torch.equal(balanced_draws(CLASSES, 3), first)
    assert not torch.equal(balanced_draws(CLASSES, 3), first)


def test_a_image_stands_for_its_rarest_label():
    """Or for those that have none."""
    assert rarest_label(LABELS).tolist() == [0, 0, 1, 3]


def test_labels_are_balanced_by_the_rarest():
    """The images without labels are a class of their own."""
    targets = torch.cat([LABELS[:1]] * 90 + [LABELS[2:3]] * 5 + [LABELS[3:]] * 5)
    torch.manual_seed(0)
    drawn = targets[balanced_draws(targets, 3) % 100]
    assert 20 < int(drawn[:, 1].sum()) < 47
    assert 20 < int((drawn.sum(1) == 0).sum()) < 47
