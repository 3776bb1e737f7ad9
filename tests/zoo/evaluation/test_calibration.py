"""The temperature, and how far a network's confidence lies from its accuracy."""

import pytest
import torch

from zoo.errors import DataError
from zoo.evaluation.calibration import (
    LEAST_TEMPERATURE,
    MOST_TEMPERATURE,
    calibrate,
    calibration_error,
    fit_temperature,
    measure,
    probabilities,
    reliability,
)


def drawn(count, classes, seed=0):
    """Logits, and targets drawn by the probabilities that these logits say."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(count, classes, generator=generator, dtype=torch.float64)
    targets = torch.multinomial(logits.softmax(-1), 1, generator=generator).squeeze(1)
    return logits, targets


@pytest.mark.parametrize("wrong_by", [0.3, 2.5])
def test_recovers_a_known_temperature(wrong_by):
    """Logits that are multiplied on purpose need that number as their temperature, and are then calibrated."""
    logits, targets = drawn(20_000, classes=5)
    scaled = (logits * wrong_by).float()
    found = calibrate(scaled[:10_000], targets[:10_000], scaled[10_000:], targets[10_000:])
    assert found.temperature == pytest.approx(wrong_by, rel=0.04)
    assert found.ece > 0.08
    assert found.ece_calibrated < 0.02
    assert found.loss_calibrated == pytest.approx(
        measure(logits[10_000:], targets[10_000:], 1.0).loss_calibrated, rel=0.01
    )


def test_recovers_the_temperature_of_independent_labels():
    """The same where an image may have several labels."""
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(5_000, 4, generator=generator, dtype=torch.float64)
    targets = torch.bernoulli(logits.sigmoid(), generator=generator).float()
    found = calibrate(3 * logits, targets, 3 * logits, targets)
    assert found.temperature == pytest.approx(3.0, rel=0.05)
    assert found.ece_calibrated < 0.02 < found.ece


def test_is_the_same_every_time():
    """To the last bit, whatever torch's generator says and inside no_grad too."""
    logits, targets = drawn(300, classes=4)
    first = fit_temperature(logits, targets)
    torch.rand(3)
    with torch.no_grad():
        assert fit_temperature(logits, targets) == first


def test_a_split_without_a_mistake_has_a_finite_temperature():
    """As if one more image had been right and one wrong: the mean confidence comes to about (N + 1) / (N + 2)."""
    targets = torch.arange(100) % 10
    logits = torch.nn.functional.one_hot(targets, 10) * 3.0
    temperature = fit_temperature(logits, targets)
    assert LEAST_TEMPERATURE < temperature < 1
    assert probabilities(logits, targets, temperature).max(1).values.mean() == pytest.approx(101 / 102, rel=1e-6)


def test_a_net_that_is_always_wrong_ends_at_the_limit():
    """The flatter the better, which has no end of its own."""
    targets = torch.arange(100) % 10
    logits = torch.nn.functional.one_hot((targets + 1) % 10, 10) * 3.0
    assert fit_temperature(logits, targets) == MOST_TEMPERATURE
    assert calibrate(logits, targets, logits, targets).temperature is None


def test_logits_must_be_numbers():
    """A network that has diverged cannot be calibrated."""
    logits, targets = drawn(10, classes=3)
    logits[3, 1] = float("inf")
    with pytest.raises(DataError, match="some of the network's logits are no finite numbers"):
        fit_temperature(logits, targets)
    assert calibrate(logits, targets, *drawn(10, classes=3)).temperature is None


def test_the_error_equals_one_computed_by_hand():
    """Four answers of 0.9, three right, and four of 0.6, one right: (|0.75 - 0.9| + |0.25 - 0.6|) / 2."""
    chosen = torch.tensor([[0.9, 0.1]] * 4 + [[0.4, 0.6]] * 4, dtype=torch.float64)
    targets = torch.tensor([0, 0, 0, 1, 1, 0, 0, 0])
    assert calibration_error(chosen.log(), targets) == pytest.approx(0.25, abs=1e-6)
    low, high = reliability(chosen.log(), targets)
    assert (low.count, low.accuracy, high.count, high.accuracy) == (4, 0.25, 4, 0.75)
    assert (low.confidence, high.confidence) == (pytest.approx(0.6), pytest.approx(0.9))


@pytest.mark.parametrize("several", [False, True])
def test_the_bins_add_up_to_the_error(several):
    """What the plot shows is what the number says."""
    logits, targets = drawn(2_000, classes=6)
    if several:
        targets = torch.nn.functional.one_hot(targets, 6).float()
    bins = reliability(logits * 2, targets)
    count = sum(each.count for each in bins)
    error = sum(each.count * abs(each.accuracy - each.confidence) for each in bins) / count
    assert count == targets.numel()
    assert error == pytest.approx(calibration_error(logits * 2, targets), abs=1e-5)
    assert all(each.low <= each.confidence <= each.high for each in bins)
