"""The report: one HTML file that loads nothing and contains no script, for light and dark screens and for print."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from zoo.data.registry import redacted_name
from zoo.errors import DataError
from zoo.evaluation.calibration import Bin, Calibration, measure, reliability
from zoo.report.charts import Chart, Series, over_epochs
from zoo.report.command import command, shareable_path
from zoo.report.confusion import Cell, ConfusedPair, confusion_table, most_confused
from zoo.report.environment import versions
from zoo.report.evaluated_run import EvaluatedRun
from zoo.report.metrics import ClassScore, Proportion, accuracy, class_scores, confusion, mean_average_precision
from zoo.report.mistakes import Mistake, worst_mistakes
from zoo.report.render import NOT_AVAILABLE, render
from zoo.runs.checkpoint import read_epochs
from zoo.settings import TrainSettings
from zoo.storage.atomic_io import write_file

MAX_CLASSES = 100  # of which all scores are shown at first; of more classes, only the worst scores
MAX_WORST_CLASSES = 40
CHARTS = (  # title; name, style and key in metrics.jsonl of each line; whether the values are percentages
    ("Loss", (("training", "train", "train_loss"), ("validation", "val", "val_loss")), False),
    (
        "Accuracy",
        (
            ("validation", "val", "val_accuracy"),
            ("mean AP", "other", "val_mean_average_precision"),
        ),
        True,
    ),
    ("Learning rate", (("after the epoch", "train", "lr"),), False),
)


@dataclass(frozen=True)
class Page:
    """The data of the template.

    Attributes:
        evaluated: the run and its evaluation.
        title: heading of the page.
        command: the command that repeats the run.
        settings: the text of each setting, and whether it differs from the default.
        sizes: number of images in each split.
        accuracy: proportion of correct images.
        mean_average_precision: None if each image has exactly one class.
        charts: curves over the epochs.
        scores: of every class.
        worst_scores: of the classes with the lowest F1; empty unless there are more than MAX_CLASSES.
        confusion: the confusion matrix; None for many classes or several labels.
        pairs: the most confused pairs of classes.
        mistakes: the worst mistakes.
        calibration: expected calibration error without and with the temperature.
        bins: bins of the reliability diagrams, by the diagram's title.
        versions: software versions.
        times: training time, and when the page was written.
    """

    evaluated: EvaluatedRun
    title: str
    command: str
    settings: Mapping[str, tuple[str, bool]]
    sizes: Mapping[str, int]
    accuracy: Proportion
    mean_average_precision: float | None
    charts: Sequence[Chart]
    scores: Sequence[ClassScore]
    worst_scores: Sequence[ClassScore]
    confusion: Sequence[Sequence[Cell]] | None
    pairs: Sequence[ConfusedPair]
    mistakes: Sequence[Mistake]
    calibration: Calibration
    bins: Mapping[str, Sequence[Bin]]
    versions: Mapping[str, str]
    times: Mapping[str, str]


def write_report(file: Path, evaluated: EvaluatedRun) -> None:
    """Write the report atomically, replacing an existing file.

    Raises:
        DataError: an image can no longer be read.
        OSError: the file cannot be written.
    """
    write_file(file, render("page.html", page=build_page(evaluated)))


def require_new_file(file: Path) -> None:
    """Check that `file` does not exist yet.

    Raises:
        DataError: it exists.
    """
    if file.exists():
        raise DataError(f"{file} already exists; nothing was overwritten: remove it or choose another file")


def build_page(evaluated: EvaluatedRun) -> Page:
    """Compute the data of the page."""
    epochs, evaluation = read_epochs(evaluated.run), evaluated.evaluation
    scores = class_scores(evaluated)
    counts = None if evaluated.is_multi_label else confusion(evaluated)
    outputs, temperature = (evaluation.logits, evaluation.targets), evaluated.temperature
    bins = {"uncalibrated": reliability(*outputs)}
    if temperature:
        bins[f"temperature {temperature:.3g}"] = reliability(*outputs, temperature)
    return Page(
        evaluated=evaluated,
        title=f"{evaluated.checkpoint.architecture} on {redacted_name(evaluated.data.name)}",
        command=command(evaluated.settings, f"{shareable_path(evaluated.run)}-again"),
        settings=_settings(evaluated.settings),
        sizes={name: len(evaluated.data.split(name)) for name in ("train", "val", "test")},
        accuracy=accuracy(evaluated),
        mean_average_precision=mean_average_precision(scores),
        charts=_charts(epochs, best=int(evaluated.checkpoint.metrics["epoch"])),
        scores=scores,
        worst_scores=_worst(scores),
        confusion=None if counts is None else confusion_table(counts),
        pairs=[] if counts is None else most_confused(counts, evaluated.data.labels),
        mistakes=worst_mistakes(evaluated),
        calibration=measure(*outputs, temperature),
        bins=bins,
        versions=versions(),
        times=_times(epochs),
    )


def _charts(epochs: Sequence[Mapping[str, float]], best: int) -> list[Chart]:
    """Return a chart for each entry of CHARTS that the run has values for."""
    numbers = [int(epoch["epoch"]) for epoch in epochs]
    known = set.intersection(*(set(epoch) for epoch in epochs))
    charts = []
    for title, lines, percent in CHARTS:
        series = [Series(name, style, tuple(e[key] for e in epochs)) for name, style, key in lines if key in known]
        if series:
            charts.append(over_epochs(title, numbers, series, best=best, percent=percent))
    return charts


def _settings(settings: TrainSettings) -> dict[str, tuple[str, bool]]:
    """Return the text of each setting, and whether it differs from the default."""
    defaults = _flat(TrainSettings(network="", data="").to_json())
    return {
        name: (_setting_text(value), name not in ("network", "data") and value != defaults.get(name))
        for name, value in _flat(settings.to_json()).items()
    }


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested values by dotted names."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat


def _setting_text(value: object) -> str:
    if value is None:
        return NOT_AVAILABLE
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _worst(scores: Sequence[ClassScore]) -> list[ClassScore]:
    """Return the classes with the lowest F1 if there are more than MAX_CLASSES; classes without images are omitted."""
    if len(scores) <= MAX_CLASSES:
        return []
    return sorted((score for score in scores if score.images), key=lambda score: score.f1 or 0.0)[:MAX_WORST_CLASSES]


def _times(epochs: Sequence[Mapping[str, float]]) -> dict[str, str]:
    seconds = [epoch["seconds"] for epoch in epochs if "seconds" in epoch]
    mean = sum(seconds) / max(1, len(seconds))
    return {
        "training": f"{sum(seconds):.1f} s in {len(epochs)} epochs, {mean:.2f} s per epoch",
        "report written": datetime.now().astimezone().strftime("%Y-%m-%d %H:%M:%S %z"),
    }
