"""Evaluation of a network on labelled images."""

import pytest
import torch
import torch.nn.functional as F

from zoo.catalog import create_model
from zoo.data.splits import MemorySplit
from zoo.errors import DataError
from zoo.evaluation.evaluate import evaluate


@pytest.fixture
def network():
    """A convnet4 with random weights."""
    torch.manual_seed(0)
    return create_model("convnet4").eval()


def test_measures_computed_by_hand(network, digits):
    """Accuracy is the share of correct predictions, the loss is cross-entropy."""
    images, targets = digits.val.images, digits.val.targets
    evaluation = evaluate(network, digits.val, digits.preprocessing)
    logits = network(digits.preprocessing.normalise(images))
    torch.testing.assert_close(evaluation.logits, logits)
    assert torch.equal(evaluation.predictions, logits.argmax(1))
    assert evaluation.accuracy == pytest.approx((logits.argmax(1) == targets).float().mean().item())
    assert evaluation.loss == pytest.approx(F.cross_entropy(logits, targets).item())


def test_batch_size_does_not_change_the_logits(network, digits):
    """The logits of several batches equal those of one batch."""
    one_batch, batches = (evaluate(network, digits.val, digits.preprocessing, batch_size=size) for size in (500, 7))
    torch.testing.assert_close(batches.logits, one_batch.logits)


@pytest.mark.parametrize("training", [True, False])
def test_runs_in_eval_mode_and_restores_the_mode(network, digits, training):
    """Neither BatchNorm's statistics nor the network's mode change."""
    network.train(training)
    before = network.bn1.running_mean.clone()
    evaluate(network, digits.val, digits.preprocessing)
    assert network.training is training
    assert torch.equal(network.bn1.running_mean, before)


def test_no_images_are_refused(network, digits):
    """An empty split is an error."""
    with pytest.raises(DataError, match="there are no images to evaluate"):
        evaluate(network, MemorySplit(digits.val.images[:0], digits.val.targets[:0]), digits.preprocessing)


def test_each_image_needs_a_target(digits):
    """Different numbers of images and targets are an error that names both."""
    with pytest.raises(DataError, match=r"137 images need as many targets; got targets of shape \(136,\)"):
        MemorySplit(digits.val.images, digits.val.targets[1:])


def test_targets_must_be_classes_of_the_network(network, digits):
    """A network with three classes cannot be evaluated on targets of ten."""
    network.reset_classifier(3)
    with pytest.raises(DataError, match="the network has classes 0 to 2; the targets range from 0 to 9"):
        evaluate(network, digits.val, digits.preprocessing)
