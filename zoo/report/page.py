"""One HTML file about a checkpoint: no network, no script, in light and in dark, on paper too."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from zoo.data.registry import redacted_name
from zoo.errors import DataError
from zoo.evaluation.calibration import Bin, Calibration, measure, reliability
from zoo.report.charts import Chart, Series, over_epochs
from zoo.report.command import command, shown_run
from zoo.report.confusion import Cell, Pair, most_confused, table
from zoo.report.environment import versions
from zoo.report.evaluated_run import EvaluatedRun
from zoo.report.metrics import ClassScore, Share, class_scores, confusion, mean_average_precision, right_answers
from zoo.report.mistakes import Mistake, worst_mistakes
from zoo.report.render import NOTHING, render
from zoo.runs.checkpoint import read_epochs
from zoo.settings import TrainSettings
from zoo.storage.atomic_io import write_file

MOST_CLASSES = 100  # whose scores are shown at once; of more, the worst
MOST_WORST = 40
CHARTS = (  # title; the name, style and key in metrics.jsonl of each line; whether they are shares
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
    """All that the template shows."""

    subject: EvaluatedRun
    title: str
    command: str
    settings: Mapping[str, tuple[str, bool]]
    sizes: Mapping[str, int]
    right: Share
    mean_average_precision: float | None
    charts: Sequence[Chart]
    scores: Sequence[ClassScore]
    worst_scores: Sequence[ClassScore]
    confusion: Sequence[Sequence[Cell]] | None
    pairs: Sequence[Pair]
    mistakes: Sequence[Mistake]
    calibration: Calibration
    bins: Mapping[str, Sequence[Bin]]
    versions: Mapping[str, str]
    times: Mapping[str, str]


def write_report(file: Path, subject: EvaluatedRun) -> None:
    """Write the page about `subject`, whole or not at all, over one that is there.

    Raises:
        DataError: an image can no longer be read.
        OSError: the file cannot be written.
    """
    write_file(file, render("page.html", page=page_of(subject)))


def refuse_taken(file: Path) -> None:
    """Require a place where nothing lies yet.

    Raises:
        DataError: something does.
    """
    if file.exists():
        raise DataError(f"{file} is there already; nothing was overwritten: remove it or choose another file")


def page_of(subject: EvaluatedRun) -> Page:
    """Compute all that the page shows."""
    epochs, evaluation = read_epochs(subject.run), subject.evaluation
    scores = class_scores(subject)
    counts = None if subject.several else confusion(subject)
    plain = (evaluation.logits, evaluation.targets)
    temperature = subject.temperature
    return Page(
        subject=subject,
        title=f"{subject.checkpoint.architecture} on {redacted_name(subject.data.name)}",
        command=command(subject.settings, f"{shown_run(subject.run)}-again"),
        settings=_settings(subject.settings),
        sizes={name: len(subject.data.split(name)) for name in ("train", "val", "test")},
        right=right_answers(subject),
        mean_average_precision=mean_average_precision(scores),
        charts=_charts(epochs, best=int(subject.checkpoint.metrics["epoch"])),
        scores=scores,
        worst_scores=_worst(scores),
        confusion=None if counts is None else table(counts),
        pairs=[] if counts is None else most_confused(counts, subject.data.labels),
        mistakes=worst_mistakes(subject),
        calibration=measure(*plain, temperature),
        bins={
            "as trained": reliability(*plain),
            **({f"at temperature {temperature:.3g}": reliability(*plain, temperature)} if temperature else {}),
        },
        versions=versions(),
        times=_times(epochs),
    )


def _charts(epochs: Sequence[Mapping[str, float]], best: int) -> list[Chart]:
    """A chart for each measure that the run has."""
    places = [int(line["epoch"]) for line in epochs]
    known = set.intersection(*(set(line) for line in epochs))
    charts = []
    for title, rows, percent in CHARTS:
        series = [Series(name, style, tuple(e[key] for e in epochs)) for name, style, key in rows if key in known]
        if series:
            charts.append(over_epochs(title, places, series, best=best, percent=percent))
    return charts


def _settings(settings: TrainSettings) -> dict[str, tuple[str, bool]]:
    """Each setting in words, and whether it is another than the default."""
    usual = _flat(TrainSettings(network="", data="").to_json())
    return {
        name: (_words(value), name not in ("network", "data") and value != usual.get(name))
        for name, value in _flat(settings.to_json()).items()
    }


def _flat(values: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= _flat(value, f"{above}{name}.") if isinstance(value, dict) else {f"{above}{name}": value}
    return flat


def _words(value: object) -> str:
    if value is None:
        return NOTHING
    if isinstance(value, list | tuple):
        return ", ".join(str(each) for each in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def _worst(scores: Sequence[ClassScore]) -> list[ClassScore]:
    """Of too many classes, those with images that have the lowest F1."""
    if len(scores) <= MOST_CLASSES:
        return []
    return sorted((score for score in scores if score.images), key=lambda score: score.f1 or 0.0)[:MOST_WORST]


def _times(epochs: Sequence[Mapping[str, float]]) -> dict[str, str]:
    seconds = [line["seconds"] for line in epochs if "seconds" in line]
    return {
        "training": f"{sum(seconds):.1f} s in {len(epochs)} epochs, {sum(seconds) / max(1, len(seconds)):.2f} s each",
        "page written": datetime.now().astimezone().strftime("%Y-%m-%d %H:%M:%S %z"),
    }
