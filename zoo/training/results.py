"""What a training run measures: after each epoch, and at its end."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

from zoo.evaluation.calibration import Calibration


@dataclass(frozen=True)
class EpochMetrics:
    """The metrics of one epoch.

    Attributes:
        epoch: Counted from 1.
        train_loss: Mean over the epoch's steps, label smoothing included.
        val_loss: Mean cross-entropy on the validation split.
        val_accuracy: Share of correct predictions on the validation split; of multi-label data, exact matches.
        val_mean_average_precision: Of multi-label data only, see `Evaluation`.
        val_macro_f1: Of multi-label data only, see `Evaluation`.
    """

    epoch: int
    train_loss: float
    val_loss: float
    val_accuracy: float
    val_mean_average_precision: float | None = None
    val_macro_f1: float | None = None

    @property
    def rank(self) -> tuple[float, float]:
        """Sort key, higher is better: accuracy, or mean average precision if measured; then the lower loss."""
        precision = self.val_mean_average_precision
        return (self.val_accuracy if precision is None else precision, -self.val_loss)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Restore metrics from a line of metrics.jsonl, which holds other values as well."""
        return cls(**{field.name: values[field.name] for field in fields(cls) if field.name in values})

    def to_json(self) -> dict[str, float]:
        """Return the measured values by name."""
        return {name: value for name, value in asdict(self).items() if value is not None}


@dataclass(frozen=True)
class TrainResult:
    """The outcome of a run.

    Attributes:
        best: The best epoch by `EpochMetrics.rank`.
        test_accuracy: Of the best epoch's weights on the test split.
        calibration: Of the best epoch's weights on the test split; its temperature is fitted on the validation split.
        seconds: Wall time of the run, or of its resumed part.
        skipped: Image files that could not be read.
        test_mean_average_precision: Of multi-label data only, see `Evaluation`.
        report_error: Why report.html or README.md was not written. Empty: both were.
    """

    best: EpochMetrics
    test_accuracy: float
    calibration: Calibration
    seconds: float
    skipped: tuple[str, ...] = ()
    test_mean_average_precision: float | None = None
    report_error: str = ""
