"""The verbs that train: `train` and `tune`. Their shared options are in zoo/runs/options.py.

Modules that need torch are imported inside the functions, so that help appears at once.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Unpack

import typer

from zoo.cli.config_file import Config
from zoo.cli.table import show_rows, skipped_rows
from zoo.data.paths import FOLDER, check_file, folder_of, require_empty_dir
from zoo.errors import SettingsError
from zoo.runs.options import (
    TUNE_DEFAULTS,
    DataOption,
    FindLr,
    Folds,
    Out,
    Resume,
    RunOptions,
    settings_from,
    takes_run_options,
)
from zoo.settings import Head, HeadInit, Schedule, TrainSettings, Transfer

if TYPE_CHECKING:
    from zoo.training.cross_validation import FoldsResult
    from zoo.training.results import TrainResult


@takes_run_options(defaults={})
def train(
    network: Annotated[
        str, typer.Argument(metavar="NETWORK", help="A network of this catalog, such as convnet4, or of timm.")
    ],
    data: DataOption,
    out: Out,
    resume: Resume = False,
    folds: Folds = 0,
    find_lr: FindLr = False,
    config: Config = None,
    **options: Unpack[RunOptions],
) -> None:
    """Train a network from scratch.

    The run's folder contains the settings, one line of metrics per epoch, the last checkpoint and the best one by
    validation accuracy. The test split is evaluated once, at the end, together with a temperature that calibrates the
    probabilities without changing predictions, `report.html`, and `README.md`, a model card. The same command with
    `--resume` continues a run that was stopped by Ctrl-C or a crash, to the same weights bit for bit.

    `--folds K` trains K runs, each of which holds out a different part of train and val, stratified by class.
    RUN/folds.json summarises them; RUN/label-noise.csv and .png show likely label errors, judged out of fold.
    `--find-lr` trains for some steps at a rising learning rate, discards the weights, and suggests the rate at which
    the loss falls most steeply; it also reports the rate at which training diverges.

    Example: zoonnx train convnet4 --data digits --out runs/digits
    """
    _run(settings_from(network, data, options), RunRequest(out, resume, folds, find_lr))


@takes_run_options(TUNE_DEFAULTS)
def tune(
    backbone: Annotated[str, typer.Argument(metavar="BACKBONE|RUN", help="A network by name, or a run's folder.")],
    data: DataOption,
    out: Out,
    resume: Resume = False,
    folds: Folds = 0,
    find_lr: FindLr = False,
    config: Config = None,
    head: Annotated[Head, typer.Option(help="Classifier of the backbone's features.")] = Transfer.head,
    schedule: Annotated[
        Schedule | None,
        typer.Option(
            help="What is trained: the head; first the head, then all (default); stage by stage from the last one."
        ),
    ] = None,
    probe: Annotated[
        bool, typer.Option("--probe", help="Train the head alone, on features that are computed once and cached.")
    ] = False,
    pretrained_file: Annotated[
        Path | None, typer.Option(help="Weights of the backbone. Default: those of its hub or its run.")
    ] = None,
    head_init: Annotated[
        HeadInit, typer.Option(help="Initial head: random, or the mean features of each class.")
    ] = Transfer.head_init,
    cut_after: Annotated[
        str | None, typer.Option(metavar="LAYER", help="Last layer of the backbone; all layers after it are removed.")
    ] = None,
    **options: Unpack[RunOptions],
) -> None:
    """Fine-tune a pretrained backbone under a new head on your data.

    `--probe` caches the features beside the run, in `.features`; they are reused while data and backbone stay the same.
    Frozen layers do not change, BatchNorm statistics included. The run's folder is as for `train`; `eval` and `export`
    accept it. `--folds` and `--find-lr` work as in `train`; the range test trains
    every layer that the schedule trains in any epoch.

    Example: zoonnx tune resnet18 --data folder:flowers --out runs/flowers
    """
    transfer = Transfer(
        head=head,
        schedule=schedule or ("probe" if probe else Transfer.schedule),
        cached=probe,
        pretrained_file=str(pretrained_file) if pretrained_file else None,
        head_init=head_init,
        cut_after=cut_after,
    )
    _run(settings_from(backbone, data, options, transfer), RunRequest(out, resume, folds, find_lr))


@dataclass(frozen=True)
class RunRequest:
    """What the command does with the settings.

    Attributes:
        out: Folder of the run.
        resume: Continue the stopped run in `out`.
        folds: Number of cross-validation folds. 0: a single run.
        find_lr: Run the learning rate range test instead of training.
    """

    out: Path
    resume: bool
    folds: int
    find_lr: bool

    def __post_init__(self) -> None:
        if self.find_lr and (self.resume or self.folds):
            raise SettingsError("--find-lr trains no run; it cannot be combined with --resume or --folds")


def _run(settings: TrainSettings, request: RunRequest) -> None:
    _check_paths(settings, request)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and (request.find_lr or request.folds):
        raise SettingsError("--find-lr and --folds run in one process; start them without torchrun")
    if request.find_lr:
        _find_lr(settings, request.out)
    elif request.folds:
        _train_folds(settings, request)
    else:
        _train(settings, request.out, request.resume)


def _check_paths(settings: TrainSettings, request: RunRequest) -> None:
    """Check paths before the slow imports, which would only delay the same errors."""
    if settings.data.startswith(FOLDER):
        folder_of(settings.data)
    if settings.transfer is not None:
        check_file(settings.transfer.pretrained_file)
    if not (request.resume or request.find_lr):
        require_empty_dir(request.out)


def _train(settings: TrainSettings, run: Path, resume: bool) -> None:
    from accelerate import PartialState

    from zoo.training.progress import ProgressBar
    from zoo.training.trainer import train as train_network

    with ProgressBar(settings.epochs) as progress:
        result = train_network(settings, run, progress, resume=resume)
    if PartialState().is_main_process:
        _show_result(result, run)
    PartialState().destroy_process_group()


def _train_folds(settings: TrainSettings, request: RunRequest) -> None:
    from zoo.training.cross_validation import train_folds
    from zoo.training.progress import ProgressBar

    def observe_fold(fold: int) -> ProgressBar:
        return ProgressBar(settings.epochs, f"fold {fold} of {request.folds}, ")

    result = train_folds(settings, request.folds, request.out, observe_fold, resume=request.resume)
    _show_folds(result, request.out)


def _find_lr(settings: TrainSettings, run: Path) -> None:
    from rich.console import Console
    from rich.progress import Progress

    from zoo.storage.atomic_io import write_file
    from zoo.training.lr_finder import STEPS, find_lr

    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("learning rate range test", total=STEPS)
        curve = find_lr(settings, lambda: progress.advance(task))
    plot = run.with_name(f"{run.name}.lr.png")
    run.parent.mkdir(parents=True, exist_ok=True)
    write_file(plot, curve.png())
    diverges = f"{curve.diverges:.2g}" if curve.diverges else f"not up to {curve.rates[-1]:.2g}"
    show_rows({"suggested rate": f"--lr {curve.suggested:.2g}", "diverges at": diverges, "plot": str(plot)})


def _show_result(result: "TrainResult", run: Path) -> None:
    rows = {
        "best epoch": str(result.best.epoch),
        **_score_rows("validation", result.best.val_accuracy, result.best.val_mean_average_precision),
        **_score_rows("test", result.test_accuracy, result.test_mean_average_precision),
        "calibration error": result.calibration.summary,
        "time": f"{result.seconds:.1f} s",
        "weights": str(run / "best" / "model.safetensors"),
        "report": f"not written: {result.report_error}" if result.report_error else str(run / "report.html"),
    }
    show_rows(rows | skipped_rows(result.skipped))


def _score_rows(split: str, accuracy: float, mean_average_precision: float | None) -> dict[str, str]:
    if mean_average_precision is None:
        return {f"{split} accuracy": f"{accuracy:.2%}"}
    return {
        f"{split} mean average precision": f"{mean_average_precision:.2%}",
        f"{split}, all labels correct": f"{accuracy:.2%}",
    }


def _show_folds(result: "FoldsResult", out: Path) -> None:
    rows = {
        f"fold {fold.fold}": f"held out {fold.val_accuracy:.2%} (last epoch {fold.last_val_accuracy:.2%}), "
        f"test {fold.test_accuracy:.2%}"
        for fold in result.results
    }
    summary = {name: f"{scores['mean']:.2%} ± {scores['deviation']:.2%}" for name, scores in result.summary().items()}
    for split, title in {"val": "held out", "test": "test"}.items():
        if f"{split}_mean_average_precision" in summary:
            rows[f"{title}, mean average precision"] = summary[f"{split}_mean_average_precision"]
    measure = ", all labels correct" if result.suspicious is None else ""
    rows[f"held out{measure}"] = f"{summary['val_accuracy']} at the best epoch, which was chosen by this score"
    rows[f"held out, last epoch{measure}"] = summary["last_val_accuracy"]
    rows[f"test{measure}"] = summary["test_accuracy"]
    show_rows(rows | {"labels": _label_issues(result, out)} | skipped_rows(result.skipped))


def _label_issues(result: "FoldsResult", out: Path) -> str:
    if result.suspicious is None:
        return "no report of suspicious labels, which requires a single label per image"
    return f"{result.suspicious} of {result.labels} are suspicious; see {out / 'label-noise.png'} and .csv"
