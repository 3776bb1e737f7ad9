"""Whether a network is right as often as its probabilities say, and one number that mends them: the temperature.

Probabilities are softmax(logits / temperature), or sigmoid(logits / temperature) where an image may have several
labels. The answers stay the same. Guo et al., On Calibration of Modern Neural Networks, 2017.
"""

from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics.functional.classification import binary_calibration_error, multiclass_calibration_error

from zoo.errors import DataError

BINS = 15
LEAST_TEMPERATURE, MOST_TEMPERATURE = 0.05, 20.0
STEPS = 100


@dataclass(frozen=True)
class Calibration:
    """A split's expected calibration error; where a temperature is known, error and loss at that one too."""

    ece: float
    temperature: float | None = None
    ece_calibrated: float | None = None
    loss_calibrated: float | None = None

    @property
    def in_words(self) -> str:
        """For a row of a table."""
        if self.temperature is None:
            return f"{self.ece:.2%} as trained"
        return f"{self.ece:.2%} as trained, {self.ece_calibrated:.2%} at temperature {self.temperature:.3g}"

    def to_json(self) -> dict[str, float]:
        """What is known, by name."""
        return {name: value for name, value in asdict(self).items() if value is not None}


@dataclass(frozen=True)
class Bin:
    """Of the answers whose confidence lies between `low` and `high`: how many, how confident, what share is right."""

    low: float
    high: float
    count: int
    confidence: float
    accuracy: float


def calibrate(val_logits: Tensor, val_targets: Tensor, logits: Tensor, targets: Tensor) -> Calibration:
    """Fit the temperature on a validation split, and measure another split with it.

    There is no temperature where logits of the validation split are no finite numbers, or where the fit ends at a
    bound: a split that is small, or on which the network only guesses, has no best one.
    """
    if not bool(torch.isfinite(val_logits).all()):
        return measure(logits, targets)
    temperature = fit_temperature(val_logits, val_targets)
    within = LEAST_TEMPERATURE < temperature < MOST_TEMPERATURE
    return measure(logits, targets, temperature if within else None)


def measure(logits: Tensor, targets: Tensor, temperature: float | None = None) -> Calibration:
    """How calibrated a split is; `targets` are classes (N,), or 0 and 1 for each label (N, labels)."""
    plain = calibration_error(logits, targets)
    if temperature is None:
        return Calibration(plain)
    loss = _loss(logits.double() / temperature, targets).item()
    return Calibration(plain, temperature, calibration_error(logits, targets, temperature), loss)


def fit_temperature(logits: Tensor, targets: Tensor) -> float:
    """The temperature of the highest likelihood, between LEAST_TEMPERATURE and MOST_TEMPERATURE.

    Each target is trusted to (N + 1) / (N + 2), the rule of succession, as Platt's scaling does (Probabilistic Outputs
    for Support Vector Machines, 1999): the likelihood of a split without a mistake would otherwise grow without end.

    Raises:
        DataError: a logit is no number.
    """
    if not bool(torch.isfinite(logits).all()):
        raise DataError("a temperature cannot be fitted: some of the network's logits are no finite numbers")
    values, smoothing = logits.double(), _smoothing(logits, targets)
    log_temperature = torch.zeros((), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [log_temperature], max_iter=STEPS, tolerance_grad=1e-9, tolerance_change=1e-12, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = _loss(values / log_temperature.exp(), targets, smoothing)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    with torch.enable_grad():
        optimizer.step(closure)  # type: ignore[no-untyped-call]
    return float(log_temperature.detach().exp().clamp(LEAST_TEMPERATURE, MOST_TEMPERATURE))


def probabilities(logits: Tensor, targets: Tensor, temperature: float = 1.0) -> Tensor:
    """Float64 (N, classes): of exclusive classes, or of independent labels where `targets` has as many columns."""
    scaled = logits.double() / temperature
    return scaled.sigmoid() if targets.ndim == 2 else scaled.softmax(-1)


def calibration_error(logits: Tensor, targets: Tensor, temperature: float = 1.0) -> float:
    """The expected calibration error over BINS bins, of the best class or of every label's yes or no."""
    found = probabilities(logits, targets, temperature)
    if targets.ndim == 2:
        return float(binary_calibration_error(found.flatten(), targets.long().flatten(), n_bins=BINS))
    return float(multiclass_calibration_error(found, targets, num_classes=found.shape[1], n_bins=BINS))


def reliability(logits: Tensor, targets: Tensor, temperature: float = 1.0) -> list[Bin]:
    """The bins that the calibration error is the mean of, without empty ones."""
    confidence, right = _answers(probabilities(logits, targets, temperature), targets)
    edges = torch.linspace(0, 1, BINS + 1, dtype=torch.float64)
    place = (torch.bucketize(confidence, edges, right=True) - 1).clamp(max=BINS - 1)
    bins = []
    for index in sorted(set(place.tolist())):
        of_bin = place == index
        low, high = edges[index : index + 2].tolist()
        mean = confidence[of_bin].mean().item()
        bins.append(Bin(low, high, int(of_bin.sum()), mean, right[of_bin].double().mean().item()))
    return bins


def _answers(found: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    if targets.ndim == 2:
        return found.flatten(), targets.flatten() > 0
    confidence, predictions = found.max(dim=1)
    return confidence, predictions == targets


def _smoothing(logits: Tensor, targets: Tensor) -> float:
    """The share of each target that is spread over all of its alternatives, so that (N + 1) / (N + 2) is left."""
    alternatives = 2 if targets.ndim == 2 else logits.shape[1]
    return alternatives / ((alternatives - 1) * (targets.numel() + 2))


def _loss(logits: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
    """Mean negative log-likelihood, of the class or of every label's yes or no."""
    if targets.ndim == 2:
        shares = targets.double() * (1 - smoothing) + smoothing / 2
        return F.binary_cross_entropy_with_logits(logits, shares)
    return F.cross_entropy(logits, targets, label_smoothing=smoothing)
