"""The fitted temperature and the expected calibration error."""

import pytest
import torch

from zoo.errors import DataError
from zoo.evaluation.calibration import (
    MAX_TEMPERATURE,
    MIN_TEMPERATURE,
    calibrate,
    calibration_error,
    fit_temperature,
    measure,
    probabilities,
    reliability,
)


def calibrated_sample(count, classes, seed=0):
    """Return logits, and targets drawn from the probabilities of these logits."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(count, classes, generator=generator, dtype=torch.float64)
    targets = torch.multinomial(logits.softmax(-1), 1, generator=generator).squeeze(1)
    return logits, targets


@pytest.mark.parametrize("factor", [0.3, 2.5])
def test_recovers_a_known_temperature(factor):
    """Calibrated logits times a factor have that factor as their temperature, and are calibrated with it."""
    logits, targets = calibrated_sample(20_000, classes=5)
    scaled = (logits * factor).float()
    calibration = calibrate(scaled[:10_000], targets[:10_000], scaled[10_000:], targets[10_000:])
    assert calibration.temperature == pytest.approx(factor, rel=0.04)
    assert calibration.ece > 0.08
    assert calibration.ece_calibrated < 0.02
    assert calibration.loss_calibrated == pytest.approx(
        measure(logits[10_000:], targets[10_000:], 1.0).loss_calibrated, rel=0.01
    )


def test_recovers_the_temperature_of_independent_labels():
    """The factor of multi-label logits is recovered, too."""
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(5_000, 4, generator=generator, dtype=torch.float64)
    targets = torch.bernoulli(logits.sigmoid(), generator=generator).float()
    calibration = calibrate(3 * logits, targets, 3 * logits, targets)
    assert calibration.temperature == pytest.approx(3.0, rel=0.05)
    assert calibration.ece_calibrated < 0.02 < calibration.ece


def test_the_temperature_is_deterministic():
    """The temperature is bit-identical after draws from torch's generator and inside no_grad."""
    logits, targets = calibrated_sample(300, classes=4)
    first = fit_temperature(logits, targets)
    torch.rand(3)
    with torch.no_grad():
        assert fit_temperature(logits, targets) == first


def test_a_split_without_a_mistake_has_a_finite_temperature():
    """The mean confidence becomes (N + 1) / (N + 2), the rule of succession."""
    targets = torch.arange(100) % 10
    logits = torch.nn.functional.one_hot(targets, 10) * 3.0
    temperature = fit_temperature(logits, targets)
    assert MIN_TEMPERATURE < temperature < 1
    assert probabilities(logits, targets, temperature).max(1).values.mean() == pytest.approx(101 / 102, rel=1e-6)


def test_a_network_that_is_always_wrong_has_no_temperature():
    """The fit ends at the upper bound, so there is no temperature."""
    targets = torch.arange(100) % 10
    logits = torch.nn.functional.one_hot((targets + 1) % 10, 10) * 3.0
    assert fit_temperature(logits, targets) == MAX_TEMPERATURE
    assert calibrate(logits, targets, logits, targets).temperature is None


def test_logits_must_be_finite():
    """Logits of a diverged network have no temperature."""
    logits, targets = calibrated_sample(10, classes=3)
    logits[3, 1] = float("inf")
    with pytest.raises(DataError, match="some of the network's logits are not finite"):
        fit_temperature(logits, targets)
    assert calibrate(logits, targets, *calibrated_sample(10, classes=3)).temperature is None


def test_the_error_computed_by_hand():
    """Four predictions at 0.9, three correct, and four at 0.6, one correct: (|0.75 - 0.9| + |0.25 - 0.6|) / 2."""
    predicted = torch.tensor([[0.9, 0.1]] * 4 + [[0.4, 0.6]] * 4, dtype=torch.float64)
    targets = torch.tensor([0, 0, 0, 1, 1, 0, 0, 0])
    assert calibration_error(predicted.log(), targets) == pytest.approx(0.25, abs=1e-6)
    low, high = reliability(predicted.log(), targets)
    assert (low.count, low.accuracy, high.count, high.accuracy) == (4, 0.25, 4, 0.75)
    assert (low.confidence, high.confidence) == (pytest.approx(0.6), pytest.approx(0.9))


@pytest.mark.parametrize("multi_label", [False, True])
def test_the_bins_average_to_the_error(multi_label):
    """The weighted mean gap of the bins is the expected calibration error."""
    logits, targets = calibrated_sample(2_000, classes=6)
    if multi_label:
        targets = torch.nn.functional.one_hot(targets, 6).float()
    bins = reliability(logits * 2, targets)
    count = sum(one.count for one in bins)
    error = sum(one.count * abs(one.accuracy - one.confidence) for one in bins) / count
    assert count == targets.numel()
    assert error == pytest.approx(calibration_error(logits * 2, targets), abs=1e-5)
    assert all(one.low <= one.confidence <= one.high for one in bins)
