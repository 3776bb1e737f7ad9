"""K-fold cross-validation: a run per fold, their summary, and likely label errors judged out of fold.

RUN/folds.json                 results of the finished folds, and their mean and standard deviation
RUN/fold-1 ... RUN/fold-K      one run each; its val split is the fold that it holds out
RUN/label-noise.csv  .png      likely label errors of single-label data; see zoo/evaluation/label_noise.py
"""

import json
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import mean, stdev

import torch
from torch import Tensor

from zoo.data.dataset import Dataset
from zoo.data.kfold import fold_of, joined_targets, kfold_indices
from zoo.data.paths import require_empty_dir
from zoo.data.registry import find_data
from zoo.data.subset import Subset
from zoo.errors import CheckpointError, SettingsError
from zoo.evaluation.evaluate import evaluate
from zoo.evaluation.label_noise import image_names, issue_sheet, issues_csv, rank_label_issues
from zoo.runs.checkpoint import read_json
from zoo.runs.load import load_run
from zoo.settings import TrainSettings
from zoo.storage.atomic_io import folder_or_backup, write_file
from zoo.training.resume import check_same_settings, has_finished
from zoo.training.trainer import Observer, train

FOLDS_SCHEMA_VERSION = 1
MEASURES = (
    "val_accuracy",
    "last_val_accuracy",
    "test_accuracy",
    "val_mean_average_precision",
    "test_mean_average_precision",
)
ObserveFold = Callable[[int], AbstractContextManager[Observer]]


@dataclass(frozen=True)
class FoldResult:
    """The metrics of one fold. The field names are keys of folds.json.

    Attributes:
        fold: Counted from 1.
        epoch: The best epoch.
        val_accuracy: Of the best epoch on the images held out; slightly optimistic, since they determined the epoch.
        last_val_accuracy: Of the last epoch on the images held out; unbiased.
        test_accuracy: Of the best epoch on the test split.
        val_mean_average_precision: As `val_accuracy`, of multi-label data only, where it chose the epoch.
        test_mean_average_precision: As `test_accuracy`, of multi-label data only.
    """

    fold: int
    epoch: int
    val_accuracy: float
    last_val_accuracy: float
    test_accuracy: float
    val_mean_average_precision: float | None = None
    test_mean_average_precision: float | None = None

    def to_json(self) -> dict[str, float]:
        """Return the measured values by name."""
        return {name: value for name, value in asdict(self).items() if value is not None}


@dataclass(frozen=True)
class FoldsResult:
    """The outcome of a cross-validation.

    Attributes:
        results: The folds in order.
        labels: Number of labelled images in train and val.
        suspicious: How many of the labels are suspicious. None: not judged, since the data are multi-label.
        skipped: Image files that could not be read.
    """

    results: tuple[FoldResult, ...]
    labels: int
    suspicious: int | None
    skipped: tuple[str, ...]

    def summary(self) -> dict[str, dict[str, float]]:
        """Return mean and sample standard deviation (divided by folds - 1) over the folds, by measure."""
        folds = [result.to_json() for result in self.results]
        values = {name: [float(fold[name]) for fold in folds] for name in MEASURES if name in folds[0]}
        return {name: {"mean": mean(scores), "deviation": stdev(scores)} for name, scores in values.items()}


def train_folds(
    settings: TrainSettings, folds: int, out: Path, observe_fold: ObserveFold | None = None, *, resume: bool = False
) -> FoldsResult:
    """Train a run for each fold into the new folder `out`, then rank its labels by how likely they are wrong.

    Args:
        settings: The settings of every fold.
        folds: Number of folds, 2 to 100.
        out: Folder of the cross-validation; must be new or empty, unless `resume` is set.
        observe_fold: Returns a context that yields the observer of the fold with the given number.
        resume: Keep finished folds, continue a stopped one and train the missing ones.

    Raises:
        ZooError: See its subclasses and `train`; invalid settings, data or devices are detected before anything is
            written.
        CheckpointError: `out` is not empty; or, to resume, it has no folds, or folds of other images.
        SettingsError: `out` to resume is a single run.
    """
    _check_folder(settings, folds, out, resume)
    results: list[FoldResult] = []
    for fold in range(1, folds + 1):
        run = out / f"fold-{fold}"
        _train_fold(replace(settings, fold=fold, folds=folds), run, observe_fold or _unobserved)
        results.append(_read_result(run, fold))
        dataset = _load_same_dataset(settings, out)
        _write_summary(out, dataset, results)
    suspicious = None if joined_targets(dataset).ndim > 1 else _write_label_noise(dataset, folds, out)
    _write_summary(out, dataset, results, suspicious)
    return FoldsResult(tuple(results), len(joined_targets(dataset)), suspicious, dataset.skipped)


def out_of_fold(dataset: Dataset, folds: int, out: Path) -> Tensor:
    """Return out-of-fold class probabilities (N, classes) of all train and val images."""
    probabilities = torch.zeros(len(dataset.train) + len(dataset.val), len(dataset.labels))
    for fold, held_out in enumerate(kfold_indices(dataset, folds), start=1):
        loaded = load_run(out / f"fold-{fold}")
        evaluation = evaluate(loaded.network, fold_of(dataset, fold, folds).val, loaded.preprocessing)
        probabilities[held_out] = evaluation.logits.softmax(dim=1)
    return probabilities


def _check_folder(settings: TrainSettings, folds: int, out: Path, resume: bool) -> None:
    replace(settings, fold=1, folds=folds)  # raises if the number of folds is out of range
    if not resume:
        require_empty_dir(out)
    elif (out / "config.json").is_file():
        raise SettingsError(f"{out} was started without --folds; continue it with --resume alone")
    elif not folder_or_backup(out / "fold-1").is_dir():
        raise CheckpointError(f"{out} has no folds to resume; omit --resume to start")


def _train_fold(settings: TrainSettings, run: Path, observe_fold: ObserveFold) -> None:
    has_started = (run / "config.json").is_file()
    if has_started and has_finished(run):
        check_same_settings(run, settings)
        return
    with observe_fold(settings.fold) as observe:
        train(settings, run, observe, resume=has_started)


def _unobserved(fold: int) -> AbstractContextManager[Observer]:
    return nullcontext(lambda event: None)


def _read_result(run: Path, fold: int) -> FoldResult:
    best, last = (read_json(folder_or_backup(run / name) / "metrics.json") for name in ("best", "last"))
    return FoldResult(
        fold,
        best["epoch"],
        best["val_accuracy"],
        last["val_accuracy"],
        best["test_accuracy"],
        best.get("val_mean_average_precision"),
        best.get("test_mean_average_precision"),
    )


def _load_same_dataset(settings: TrainSettings, out: Path) -> Dataset:
    """Load the dataset as the first fold's network preprocesses it; require the images that folds.json refers to."""
    source = find_data(settings.data, bad_images=settings.bad_images, workers=settings.workers)
    dataset = source.for_network(load_run(out / "fold-1").preprocessing)
    if (out / "folds.json").exists() and read_json(out / "folds.json")["data_key"] != _labelled_images(dataset).key():
        raise CheckpointError(f"the images of {out} have changed since it started; train new folds on them")
    return dataset


def _labelled_images(dataset: Dataset) -> Subset:
    """Return the images of train and val as one split."""
    return Subset((dataset.train, dataset.val), torch.arange(len(joined_targets(dataset))))


def _write_summary(out: Path, dataset: Dataset, results: Sequence[FoldResult], suspicious: int | None = None) -> None:
    labels = len(joined_targets(dataset))
    summary = FoldsResult(tuple(results), labels, suspicious, dataset.skipped).summary() if len(results) > 1 else None
    values = {
        "schema_version": FOLDS_SCHEMA_VERSION,
        "data_key": _labelled_images(dataset).key(),
        "results": [result.to_json() for result in results],
        **({"summary": summary} if summary else {}),
        "labels": labels,
        "suspicious": suspicious,
    }
    write_file(out / "folds.json", (json.dumps(values, indent=2) + "\n").encode())


def _write_label_noise(dataset: Dataset, folds: int, out: Path) -> int:
    """Write label-noise.csv and .png; return the number of suspicious labels."""
    issues = rank_label_issues(out_of_fold(dataset, folds, out), joined_targets(dataset))
    names = image_names({"train": dataset.train, "val": dataset.val})
    write_file(out / "label-noise.csv", issues_csv(issues, names, dataset.labels))
    write_file(out / "label-noise.png", issue_sheet(issues, _labelled_images(dataset), dataset.labels))
    return sum(issue.is_suspicious for issue in issues)
