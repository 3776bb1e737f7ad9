"""Calibration: whether probabilities match the share of correct predictions, and the temperature that corrects them.

Probabilities are softmax(logits / temperature), or sigmoid(logits / temperature) for multi-label data. The temperature
changes no prediction. Guo et al., On Calibration of Modern Neural Networks, 2017.
"""

from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics.functional.classification import binary_calibration_error, multiclass_calibration_error

from zoo.errors import DataError

BINS = 15
MIN_TEMPERATURE, MAX_TEMPERATURE = 0.05, 20.0
MAX_STEPS = 100


@dataclass(frozen=True)
class Calibration:
    """The calibration of one split.

    Attributes:
        ece: expected calibration error without a temperature, 0..1.
        temperature: the fitted temperature; None: there is none.
        ece_calibrated: expected calibration error with the temperature; None without one.
        loss_calibrated: mean loss with the temperature; None without one.
    """

    ece: float
    temperature: float | None = None
    ece_calibrated: float | None = None
    loss_calibrated: float | None = None

    @property
    def summary(self) -> str:
        """The errors and the temperature as text for a table."""
        if self.temperature is None:
            return f"{self.ece:.2%} as trained"
        return f"{self.ece:.2%} as trained, {self.ece_calibrated:.2%} at temperature {self.temperature:.3g}"

    def to_json(self) -> dict[str, float]:
        """Return the fields that are not None, by name."""
        return {name: value for name, value in asdict(self).items() if value is not None}


@dataclass(frozen=True)
class Bin:
    """The predictions with a confidence from `low` to `high`.

    Attributes:
        low: lower bound of the confidence.
        high: upper bound of the confidence.
        count: number of predictions.
        confidence: their mean confidence.
        accuracy: the share of them that is correct.
    """

    low: float
    high: float
    count: int
    confidence: float
    accuracy: float


def calibrate(val_logits: Tensor, val_targets: Tensor, logits: Tensor, targets: Tensor) -> Calibration:
    """Fit the temperature on a validation split, and measure another split with it.

    There is no temperature if the validation split has logits that are not finite, or if the fit ends at a bound: a
    split that is too small, or on which the network only guesses, has no optimum.
    """
    if not bool(torch.isfinite(val_logits).all()):
        return measure(logits, targets)
    temperature = fit_temperature(val_logits, val_targets)
    has_optimum = MIN_TEMPERATURE < temperature < MAX_TEMPERATURE
    return measure(logits, targets, temperature if has_optimum else None)


def measure(logits: Tensor, targets: Tensor, temperature: float | None = None) -> Calibration:
    """Measure the calibration of a split; `targets` are classes (N,), or 0 and 1 for each label (N, labels)."""
    ece = calibration_error(logits, targets)
    if temperature is None:
        return Calibration(ece)
    loss = _loss(logits.double() / temperature, targets).item()
    return Calibration(ece, temperature, calibration_error(logits, targets, temperature), loss)


def fit_temperature(logits: Tensor, targets: Tensor) -> float:
    """Return the temperature of maximum likelihood, between MIN_TEMPERATURE and MAX_TEMPERATURE.

    Targets are smoothed to (N + 1) / (N + 2), the rule of succession, as in Platt scaling (Probabilistic Outputs for
    Support Vector Machines, 1999): without it, the likelihood of a split without a mistake has no maximum.

    Raises:
        DataError: a logit is not finite.
    """
    if not bool(torch.isfinite(logits).all()):
        raise DataError("a temperature cannot be fitted: some of the network's logits are not finite")
    float64_logits, smoothing = logits.double(), _smoothing(logits, targets)
    log_temperature = torch.zeros((), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [log_temperature],
        max_iter=MAX_STEPS,
        tolerance_grad=1e-9,
        tolerance_change=1e-12,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = _loss(float64_logits / log_temperature.exp(), targets, smoothing)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    with torch.enable_grad():
        optimizer.step(closure)  # type: ignore[no-untyped-call]
    return float(log_temperature.detach().exp().clamp(MIN_TEMPERATURE, MAX_TEMPERATURE))


def probabilities(logits: Tensor, targets: Tensor, temperature: float = 1.0) -> Tensor:
    """Return float64 (N, classes): a softmax, or a sigmoid if `targets` is (N, labels)."""
    scaled = logits.double() / temperature
    return scaled.sigmoid() if targets.ndim == 2 else scaled.softmax(-1)


def calibration_error(logits: Tensor, targets: Tensor, temperature: float = 1.0) -> float:
    """Return the expected calibration error over BINS bins, of the top class or of each label's binary decision."""
    predicted = probabilities(logits, targets, temperature)
    if targets.ndim == 2:
        return float(binary_calibration_error(predicted.flatten(), targets.long().flatten(), n_bins=BINS))
    return float(multiclass_calibration_error(predicted, targets, num_classes=predicted.shape[1], n_bins=BINS))


def reliability(logits: Tensor, targets: Tensor, temperature: float = 1.0) -> list[Bin]:
    """Return the bins over which the calibration error is the mean, without empty ones."""
    confidence, correct = _confidence_and_correctness(probabilities(logits, targets, temperature), targets)
    edges = torch.linspace(0, 1, BINS + 1, dtype=torch.float64)
    bin_indices = (torch.bucketize(confidence, edges, right=True) - 1).clamp(max=BINS - 1)
    bins = []
    for index in sorted(set(bin_indices.tolist())):
        members = bin_indices == index
        low, high = edges[index : index + 2].tolist()
        accuracy = correct[members].double().mean().item()
        bins.append(Bin(low, high, int(members.sum()), confidence[members].mean().item(), accuracy))
    return bins


def _confidence_and_correctness(predicted: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    if targets.ndim == 2:
        return predicted.flatten(), targets.flatten() > 0
    confidence, predictions = predicted.max(dim=1)
    return confidence, predictions == targets


def _smoothing(logits: Tensor, targets: Tensor) -> float:
    """Return the label smoothing that leaves each target (N + 1) / (N + 2)."""
    alternatives = 2 if targets.ndim == 2 else logits.shape[1]
    return alternatives / ((alternatives - 1) * (targets.numel() + 2))


def _loss(logits: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
    """Return the mean negative log-likelihood, of the class or of each label's binary decision."""
    if targets.ndim == 2:
        smoothed = targets.double() * (1 - smoothing) + smoothing / 2
        return F.binary_cross_entropy_with_logits(logits, smoothed)
    return F.cross_entropy(logits, targets, label_smoothing=smoothing)
