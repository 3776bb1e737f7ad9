"""The verbs that make runs: `train` and `tune`. The options that they share stand in cli_options.py.

What needs torch is imported inside them, so that help comes at once.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Unpack

import typer

from zoo.cli_options import DataOption, Out, Resume, RunOptions, settings_from, takes_run_options
from zoo.cli_settings import Config
from zoo.settings import Head, Schedule, TrainSettings, Transfer

if TYPE_CHECKING:
    from zoo.train import TrainResult

TUNE_DEFAULTS = {"lr": 2e-3, "weight_decay": 0.05, "layer_decay": 0.75}


@takes_run_options(defaults={})
def train(
    net: Annotated[str, typer.Argument(help="A net of the catalog, such as convnet4, or any of timm's.")],
    data: DataOption,
    out: Out,
    resume: Resume = False,
    config: Config = None,
    **options: Unpack[RunOptions],
) -> None:
    """Train a net from scratch.

    The run's folder receives its settings, one line of metrics an epoch, the last checkpoint and the best one by
    validation accuracy. The test split is looked at once, at the end. A run that was stopped, by Ctrl-C or by worse,
    goes on with the same command and `--resume`, to the same weights bit by bit.

    Example: `zoonnx train convnet4 --data digits --out runs/digits`
    """
    _train(settings_from(net, data, options), out, resume)


@takes_run_options(TUNE_DEFAULTS)
def tune(
    backbone: Annotated[str, typer.Argument(metavar="BACKBONE|RUN", help="A net by name, or a run's folder.")],
    data: DataOption,
    out: Out,
    resume: Resume = False,
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
    **options: Unpack[RunOptions],
) -> None:
    """Put a new head on a pretrained backbone, and train them on your data.

    `--probe` stores the features beside the run, in `.features`, for as long as data and backbone are the same.
    What is frozen stays as it is, BatchNorm's statistics included. The run's folder is as that of `train`; `eval` and
    `export` take it.

    Example: zoonnx tune resnet18 --data folder:flowers --out runs/flowers
    """
    transfer = Transfer(
        head=head,
        schedule=schedule or ("probe" if probe else Transfer.schedule),
        cached=probe,
        pretrained_file=str(pretrained_file) if pretrained_file else None,
    )
    _train(settings_from(backbone, data, options, transfer), out, resume)


def show_rows(rows: dict[str, str]) -> None:
    """Names and values as a table on stdout."""
    from rich.console import Console
    from rich.table import Table

    table = Table.grid(padding=(0, 2))
    for name, value in rows.items():
        table.add_row(name, value)
    Console(soft_wrap=True).print(table)


def left_out(skipped: tuple[str, ...]) -> dict[str, str]:
    """Bad images as a row of the table, if there are any."""
    return {"left out": "\n".join(skipped)} if skipped else {}


def _train(settings: TrainSettings, run: Path, resume: bool) -> None:
    from zoo.progress import ProgressBar
    from zoo.train import train as train_net

    with ProgressBar(settings.epochs) as progress:
        result = train_net(settings, run, progress, resume=resume)
    _show_result(result, run)


def _show_result(result: "TrainResult", run: Path) -> None:
    rows = {
        "best epoch": str(result.best.epoch),
        "validation accuracy": f"{result.best.val_accuracy:.2%}",
        "test accuracy": f"{result.test_accuracy:.2%}",
        "time": f"{result.seconds:.1f} s",
        "weights": str(run / "best" / "model.safetensors"),
    }
    show_rows(rows | left_out(result.skipped))
