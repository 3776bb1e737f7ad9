"""How good a network is on labelled images."""

import pytest
import torch
import torch.nn.functional as F

from zoo.catalog import create_model
from zoo.data.splits import MemorySplit
from zoo.errors import DataError
from zoo.evaluation.evaluate import evaluate


@pytest.fixture
def network():
    """A random network."""
    torch.manual_seed(0)
    return create_model("convnet4").eval()


def test_measures_as_by_hand(network, digits):
    """Accuracy is the share of right answers, the loss plain cross-entropy."""
    images, targets = digits.val.images, digits.val.targets
    found = evaluate(network, digits.val, digits.preprocessing)
    logits = network(digits.preprocessing.normalise(images))
    torch.testing.assert_close(found.logits, logits)
    assert torch.equal(found.predictions, logits.argmax(1))
    assert found.accuracy == pytest.approx((logits.argmax(1) == targets).float().mean().item())
    assert found.loss == pytest.approx(F.cross_entropy(logits, targets).item())


def test_batch_size_does_not_change_the_answer(network, digits):
    """Batches are cut and put together again in order."""
    whole, cut = (evaluate(network, digits.val, digits.preprocessing, batch_size=size) for size in (500, 7))
    torch.testing.assert_close(cut.logits, whole.logits)


@pytest.mark.parametrize("training", [True, False])
def test_runs_in_eval_mode_and_gives_the_mode_back(network, digits, training):
    """BatchNorm's statistics stay, and so does the network's mode."""
    network.train(training)
    before = network.bn1.running_mean.clone()
    evaluate(network, digits.val, digits.preprocessing)
    assert network.training is training
    assert torch.equal(network.bn1.running_mean, before)


def test_no_images_are_refused(network, digits):
    """An accuracy of nothing is no number."""
    with pytest.raises(DataError, match="there are no images to evaluate"):
        evaluate(network, MemorySplit(digits.val.images[:0], digits.val.targets[:0]), digits.preprocessing)


def test_each_image_needs_a_target(digits):
    """The message has both numbers."""
    with pytest.raises(DataError, match=r"137 images need as many targets; got targets of shape \(136,\)"):
        MemorySplit(digits.val.images, digits.val.targets[1:])


def test_targets_are_classes_of_the_net(network, digits):
    """A network of three classes cannot be measured on ten."""
    network.reset_classifier(3)
    with pytest.raises(DataError, match="the network has classes 0 to 2; the targets reach from 0 to 9"):
        evaluate(network, digits.val, digits.preprocessing)
