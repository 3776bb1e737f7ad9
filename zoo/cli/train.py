"""The verbs that make runs: `train` and `tune`. The options that they share stand in cli_options.py.

What needs torch is imported inside them, so that help comes at once.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Unpack

import typer

from zoo.cli.config_file import Config
from zoo.data.paths import FOLDER, check_file, folder_of, refuse_taken
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
    from zoo.training.trainer import TrainResult


@takes_run_options(defaults={})
def train(
    network: Annotated[str, typer.Argument(help="A network of the catalog, such as convnet4, or any of timm's.")],
    data: DataOption,
    out: Out,
    resume: Resume = False,
    folds: Folds = 0,
    find_lr: FindLr = False,
    config: Config = None,
    **options: Unpack[RunOptions],
) -> None:
    """Train a network from scratch.

    The run's folder receives its settings, one line of metrics an epoch, the last checkpoint and the best one by
    validation accuracy. The test split is looked at once, at the end. A run that was stopped, by Ctrl-C or by worse,
    goes on with the same command and `--resume`, to the same weights bit by bit. At the end `report.html` and a model
    card, `README.md`, join them, and the temperature that mends the probabilities.

    `--folds K` trains K runs, each of which holds out another part of train and val, alike in classes; RUN/folds.json
    says how they did, RUN/label-noise.csv and .png which labels they doubt of images that they have not learned from.
    `--find-lr` trains for some steps at a rate that rises, keeps nothing of them, and suggests the rate at which the
    loss falls most steeply; at the rate where it diverges, learning breaks down.

    Example: `zoonnx train convnet4 --data digits --out runs/digits`
    """
    _go(settings_from(network, data, options), RunRequest(out, resume, folds, find_lr))


@takes_run_options(TUNE_DEFAULTS)
def tune(
    backbone: Annotated[str, typer.Argument(metavar="BACKBONE|RUN", help="A network by name, or a run's folder.")],
    data: DataOption,
    out: Out,
    resume: Resume = False,
    folds: Folds = 0,
    find_lr: FindLr = False,
    config: Config = None,
    head: Annotated[Head, typer.Option(help="What classifies the backbone's features.")] = Transfer.head,
    schedule: Annotated[
        Schedule | None,
        typer.Option(help="What learns: the head; the head, then all (default); stage by stage from the last one."),
    ] = None,
    probe: Annotated[
        bool, typer.Option("--probe", help="Train the head alone, on features that are computed once and stored.")
    ] = False,
    pretrained_file: Annotated[
        Path | None, typer.Option(help="Weights of the backbone. By default its own, from its hub or its run.")
    ] = None,
    head_init: Annotated[
        HeadInit, typer.Option(help="How the head begins: at random, or from each class's mean features.")
    ] = Transfer.head_init,
    cut_after: Annotated[
        str | None, typer.Option(metavar="LAYER", help="The backbone's last layer; what comes after it is left out.")
    ] = None,
    **options: Unpack[RunOptions],
) -> None:
    """Put a new head on a pretrained backbone, and train them on your data.

    `--probe` stores the features beside the run, in `.features`, for as long as data and backbone are the same.
    What is frozen stays as it is, BatchNorm's statistics included. The run's folder is as that of `train`; `eval` and
    `export` take it. `--folds` and `--find-lr` are as in `train`; the rate is tested with all that ever learns.

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
    _go(settings_from(backbone, data, options, transfer), RunRequest(out, resume, folds, find_lr))


def show_rows(rows: dict[str, str]) -> None:
    """Print names and values in two columns; long values are not wrapped."""
    width = max(map(len, rows)) + 2
    for name, value in rows.items():
        typer.echo(f"{name:<{width}}" + value.replace("\n", "\n" + " " * width))


def left_out(skipped: tuple[str, ...]) -> dict[str, str]:
    """Bad images as a row of the table, if there are any."""
    return {"left out": "\n".join(skipped)} if skipped else {}


@dataclass(frozen=True)
class RunRequest:
    """What to do with the settings: a run at `out`; or as many as there are folds, if any; or find a rate instead."""

    out: Path
    resume: bool
    folds: int
    find_lr: bool

    def __post_init__(self) -> None:
        if self.find_lr and (self.resume or self.folds):
            raise SettingsError("--find-lr makes no run: it goes with neither --resume nor --folds")


def _go(settings: TrainSettings, asked: RunRequest) -> None:
    _check_places(settings, asked)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and (asked.find_lr or asked.folds):
        raise SettingsError("--find-lr and --folds run in one process; start them without torchrun")
    if asked.find_lr:
        _find_lr(settings, asked.out)
    elif asked.folds:
        _train_folds(settings, asked)
    else:
        _train(settings, asked.out, asked.resume)


def _check_places(settings: TrainSettings, asked: RunRequest) -> None:
    """Refuse at once what would be refused only after slow imports."""
    if settings.data.startswith(FOLDER):
        folder_of(settings.data)
    if settings.transfer is not None:
        check_file(settings.transfer.pretrained_file)
    if not (asked.resume or asked.find_lr):
        refuse_taken(asked.out)


def _train(settings: TrainSettings, run: Path, resume: bool) -> None:
    from accelerate import PartialState

    from zoo.training.progress import ProgressBar
    from zoo.training.trainer import train as train_net

    with ProgressBar(settings.epochs) as progress:
        result = train_net(settings, run, progress, resume=resume)
    if PartialState().is_main_process:
        _show_result(result, run)
    PartialState().destroy_process_group()


def _train_folds(settings: TrainSettings, asked: RunRequest) -> None:
    from zoo.training.cross_validation import train_folds
    from zoo.training.progress import ProgressBar

    def watch(fold: int) -> ProgressBar:
        return ProgressBar(settings.epochs, f"fold {fold} of {asked.folds}, ")

    _show_folds(train_folds(settings, asked.folds, asked.out, watch, resume=asked.resume), asked.out)


def _find_lr(settings: TrainSettings, run: Path) -> None:
    from rich.console import Console
    from rich.progress import Progress

    from zoo.storage.atomic_io import write_file
    from zoo.training.lr_finder import STEPS, find_lr

    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("learning rate range test", total=STEPS)
        curve = find_lr(settings, lambda: progress.advance(task))
    image = run.with_name(f"{run.name}.lr.png")
    run.parent.mkdir(parents=True, exist_ok=True)
    write_file(image, curve.png())
    diverges = f"{curve.diverges:.2g}" if curve.diverges else f"not up to {curve.rates[-1]:.2g}"
    show_rows({"suggested rate": f"--lr {curve.suggested:.2g}", "diverges at": diverges, "curve": str(image)})


def _show_result(result: "TrainResult", run: Path) -> None:
    rows = {
        "best epoch": str(result.best.epoch),
        **_measured("validation", result.best.val_accuracy, result.best.val_mean_average_precision),
        **_measured("test", result.test_accuracy, result.test_mean_average_precision),
        "calibration error": result.calibration.in_words,
        "time": f"{result.seconds:.1f} s",
        "weights": str(run / "best" / "model.safetensors"),
        "report": f"not written: {result.report_fault}" if result.report_fault else str(run / "report.html"),
    }
    show_rows(rows | left_out(result.skipped))


def _show_folds(result: "FoldsResult", out: Path) -> None:
    rows = {
        f"fold {each.fold}": f"held out {each.val_accuracy:.2%} (last epoch {each.last_val_accuracy:.2%}), "
        f"test {each.test_accuracy:.2%}"
        for each in result.results
    }
    found = {name: f"{each['mean']:.2%} ± {each['deviation']:.2%}" for name, each in result.summary().items()}
    all_right = ", every label right" if result.suspicious is None else ""
    for name, split in {"val": "held out", "test": "test"}.items():
        if f"{name}_mean_average_precision" in found:
            rows[f"{split}, mean average precision"] = found[f"{name}_mean_average_precision"]
    rows[f"held out{all_right}"] = f"{found['val_accuracy']}, of each fold's best epoch, which it chose itself"
    rows[f"last epoch{all_right}"] = found["last_val_accuracy"]
    rows[f"test{all_right}"] = found["test_accuracy"]
    show_rows(rows | {"labels": _suspicious(result, out)} | left_out(result.skipped))


def _suspicious(result: "FoldsResult", out: Path) -> str:
    if result.suspicious is None:
        return "no report of suspicious labels: there is one where each image has a single label"
    where = f"see {out / 'label-noise.png'} and .csv"
    return f"{result.suspicious} of {result.labels} are suspicious; {where}"


def _measured(split: str, accuracy: float, precision: float | None) -> dict[str, str]:
    if precision is None:
        return {f"{split} accuracy": f"{accuracy:.2%}"}
    return {f"{split} mean average precision": f"{precision:.2%}", f"{split} all labels right": f"{accuracy:.2%}"}
