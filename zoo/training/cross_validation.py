"""K-fold training, and what its networks say about the labels that they have not learned from.

RUN/folds.json                 what was asked, and what each fold that has ended measured
RUN/fold-1 ... RUN/fold-K      a run each; its val split is the fold that it holds out
RUN/label-noise.csv  .png      the labels that these networks doubt, where an image has one label; see label_noise.py
"""

import json
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import mean, stdev

import torch
from torch import Tensor

from zoo.data.kfold import divide, fold_of, joined_targets
from zoo.data.paths import refuse_taken
from zoo.data.registry import Dataset, find_data
from zoo.data.subset import Subset
from zoo.errors import CheckpointError, SettingsError
from zoo.evaluation.evaluate import evaluate
from zoo.evaluation.label_noise import as_csv, as_sheet, image_names, rank_doubts
from zoo.runs.checkpoint import read_json
from zoo.runs.load import load_run
from zoo.settings import TrainSettings
from zoo.storage.atomic_io import standing_folder, write_file
from zoo.training.resume import check_same_settings, has_ended
from zoo.training.trainer import Observer, train

FOLDS_SCHEMA_VERSION = 1
MEASURES = (
    "val_accuracy",
    "last_val_accuracy",
    "test_accuracy",
    "val_mean_average_precision",
    "test_mean_average_precision",
)
Watch = Callable[[int], AbstractContextManager[Observer]]


@dataclass(frozen=True)
class FoldResult:
    """What one fold measured.

    `val_accuracy` is that of the best epoch on the images held out, which also chose the epoch and so flatters it
    a little; `last_val_accuracy` is that of the last epoch, which nothing chose. The mean average precisions are
    those of multi-label data, None for others; there the one on the images held out chose the epoch.
    """

    fold: int
    epoch: int
    val_accuracy: float
    last_val_accuracy: float
    test_accuracy: float
    val_mean_average_precision: float | None = None
    test_mean_average_precision: float | None = None

    def to_json(self) -> dict[str, float]:
        """Plain JSON values by name, without those that were not measured."""
        return {name: value for name, value in asdict(self).items() if value is not None}


@dataclass(frozen=True)
class FoldsResult:
    """All folds; `suspicious` of `labels` labels are in doubt, None where an image may have several."""

    results: tuple[FoldResult, ...]
    labels: int
    suspicious: int | None
    skipped: tuple[str, ...]

    def summary(self) -> dict[str, dict[str, float]]:
        """Mean and standard deviation (of a sample: over folds - 1) of each measure."""
        measured = [each.to_json() for each in self.results]
        values = {name: [float(each[name]) for each in measured] for name in MEASURES if name in measured[0]}
        return {name: {"mean": mean(each), "deviation": stdev(each)} for name, each in values.items()}


def train_folds(
    settings: TrainSettings, folds: int, out: Path, watch: Watch | None = None, *, resume: bool = False
) -> FoldsResult:
    """Train a run for each fold into the new folder `out`; `watch` gives the observer of each fold.

    With `resume`, folds that have ended stay, one that stopped goes on, and the others begin.

    Raises:
        ZooError: see its subclasses, as `train`; nothing is written if the settings, the data or the device are at
            fault.
        CheckpointError: `out` is there already; or, to resume, holds no folds, or those of other images.
        SettingsError: `out` to resume is one run.
    """
    _check_place(settings, folds, out, resume)
    results: list[FoldResult] = []
    for fold in range(1, folds + 1):
        _train_fold(replace(settings, fold=fold, folds=folds), out / f"fold-{fold}", watch or _unwatched)
        results.append(_result(out / f"fold-{fold}", fold))
        data = _same_data(settings, out)
        _write(out, data, results)
    suspicious = None if joined_targets(data).ndim > 1 else _write_label_noise(data, folds, out)
    _write(out, data, results, suspicious)
    return FoldsResult(tuple(results), len(joined_targets(data)), suspicious, data.skipped)


def out_of_fold(data: Dataset, folds: int, out: Path) -> Tensor:
    """The probabilities of each image of train and val, (N, classes), by the fold that holds it out."""
    found = torch.zeros(len(data.train) + len(data.val), len(data.labels))
    for fold, held_out in enumerate(divide(data, folds), start=1):
        loaded = load_run(out / f"fold-{fold}")
        evaluation = evaluate(loaded.network, fold_of(data, fold, folds).val, loaded.preprocessing)
        found[held_out] = evaluation.logits.softmax(dim=1)
    return found


def _check_place(settings: TrainSettings, folds: int, out: Path, resume: bool) -> None:
    replace(settings, fold=1, folds=folds)  # refuses a number that is out of range
    if not resume:
        refuse_taken(out)
    elif (out / "config.json").is_file():
        raise SettingsError(f"{out} was begun without --folds: go on with it by --resume alone")
    elif not standing_folder(out / "fold-1").is_dir():
        raise CheckpointError(f"{out} holds no folds to go on with; leave --resume out to begin")


def _train_fold(settings: TrainSettings, run: Path, watch: Watch) -> None:
    begun = (run / "config.json").is_file()
    if begun and has_ended(run):
        check_same_settings(run, settings)
        return
    with watch(settings.fold) as observe:
        train(settings, run, observe, resume=begun)


def _unwatched(fold: int) -> AbstractContextManager[Observer]:
    return nullcontext(lambda event: None)


def _result(run: Path, fold: int) -> FoldResult:
    best, last = (read_json(standing_folder(run / name) / "metrics.json") for name in ("best", "last"))
    return FoldResult(
        fold,
        best["epoch"],
        best["val_accuracy"],
        last["val_accuracy"],
        best["test_accuracy"],
        best.get("val_mean_average_precision"),
        best.get("test_mean_average_precision"),
    )


def _same_data(settings: TrainSettings, out: Path) -> Dataset:
    """The data as the first fold's network takes them, required to be those of the folds that folds.json knows of."""
    source = find_data(settings.data, bad_images=settings.bad_images, workers=settings.workers)
    data = source.for_net(load_run(out / "fold-1").preprocessing)
    if (out / "folds.json").exists() and read_json(out / "folds.json")["data_key"] != _key(data):
        raise CheckpointError(f"the images of {out} have changed since it began; train new folds on them")
    return data


def _key(data: Dataset) -> str:
    return Subset((data.train, data.val), torch.arange(len(joined_targets(data)))).key()


def _write(out: Path, data: Dataset, results: Sequence[FoldResult], suspicious: int | None = None) -> None:
    measured = FoldsResult(tuple(results), len(joined_targets(data)), suspicious, data.skipped)
    values = {
        "schema_version": FOLDS_SCHEMA_VERSION,
        "data_key": _key(data),
        "results": [each.to_json() for each in results],
        **({"summary": measured.summary()} if len(results) > 1 else {}),
        "labels": measured.labels,
        "suspicious": suspicious,
    }
    write_file(out / "folds.json", (json.dumps(values, indent=2) + "\n").encode())


def _write_label_noise(data: Dataset, folds: int, out: Path) -> int:
    doubts = rank_doubts(out_of_fold(data, folds, out), joined_targets(data))
    names = image_names({"train": data.train, "val": data.val})
    every = Subset((data.train, data.val), torch.arange(len(names)))
    write_file(out / "label-noise.csv", as_csv(doubts, names, data.labels))
    write_file(out / "label-noise.png", as_sheet(doubts, every, data.labels))
    return sum(doubt.is_suspicious for doubt in doubts)
