"""Losses, class weights and balanced sampling of single-label and multi-label targets."""

import pytest
import torch
import torch.nn.functional as F

from zoo.data.targets import balanced_draws, class_weights, make_loss, rarest_label, task_of

CLASSES = torch.tensor([0] * 8 + [1] * 2 + [2] * 2)
LABELS = torch.tensor([[1, 0, 0], [1, 0, 0], [1, 1, 0], [0, 0, 0]])


def test_the_task_follows_from_the_shape():
    """Targets of shape (N,) are single-label, of shape (N, labels) multi-label."""
    assert (task_of(CLASSES), task_of(LABELS)) == ("single-label", "multi-label")


def test_the_multi_label_loss_is_binary_cross_entropy():
    """The loss is the mean over images and labels; smoothing moves targets towards one half."""
    logits = torch.tensor([[2.0, -1.0], [0.5, 3.0]])
    targets = torch.tensor([[1, 0], [0, 1]])
    plain = F.binary_cross_entropy(logits.sigmoid(), targets.float())
    torch.testing.assert_close(make_loss("multi-label", 0.0)(logits, targets), plain)
    smooth = F.binary_cross_entropy(logits.sigmoid(), torch.tensor([[0.9, 0.1], [0.1, 0.9]]))
    torch.testing.assert_close(make_loss("multi-label", 0.2)(logits, targets), smooth)


def test_weights_of_classes_are_inverse_frequencies_of_mean_one():
    """A class with a quarter of the images has four times the weight."""
    weights = class_weights(CLASSES, 3)
    torch.testing.assert_close(weights, torch.tensor([0.5, 2.0, 2.0]))
    assert weights[CLASSES].mean().item() == pytest.approx(1)


def test_weights_of_labels_are_the_ratio_of_absent_to_present():
    """A label that all images or no image have gets weight 1."""
    targets = torch.tensor([[1, 0, 1], [0, 0, 1], [0, 0, 1], [0, 0, 1]])
    assert class_weights(targets, 3).tolist() == [3, 1, 1]
    loss = make_loss("multi-label", 0.0, torch.tensor([3.0, 1.0, 1.0]))
    logits = torch.zeros(1, 3)
    weighted, unweighted = (loss(logits, torch.tensor([target])) for target in ([1, 0, 0], [0, 1, 0]))
    assert (weighted / unweighted).item() == pytest.approx(5 / 3)


def test_draws_are_balanced():
    """Each class is drawn about equally often, and each repeat of an image has a different index."""
    targets = torch.tensor([0] * 900 + [1] * 90 + [2] * 10)
    torch.manual_seed(0)
    draws = balanced_draws(targets, 3)
    assert (len(draws), len(draws.unique())) == (1000, 1000)
    counts = targets[draws % 1000].bincount()
    assert counts.sub(333).abs().max() < 60
    rare = (draws % 1000) == 995
    assert sorted((draws[rare] // 1000).tolist()) == list(range(int(rare.sum())))


def test_draws_depend_on_torchs_seed():
    """The same seed of torch draws the same images."""
    torch.manual_seed(3)
    first = balanced_draws(CLASSES, 3)
    torch.manual_seed(3)
    assert torch.equal(balanced_draws(CLASSES, 3), first)
    assert not torch.equal(balanced_draws(CLASSES, 3), first)


def test_the_rarest_label_of_each_image():
    """An image without labels gets the number of labels."""
    assert rarest_label(LABELS).tolist() == [0, 0, 1, 3]


def test_labels_are_balanced_by_the_rarest():
    """Multi-label images are balanced by their rarest label; those without labels form their own class."""
    targets = torch.cat([LABELS[:1]] * 90 + [LABELS[2:3]] * 5 + [LABELS[3:]] * 5)
    torch.manual_seed(0)
    drawn = targets[balanced_draws(targets, 3) % 100]
    assert 20 < int(drawn[:, 1].sum()) < 47
    assert 20 < int((drawn.sum(1) == 0).sum()) < 47
