"""The verbs that look: `eval`, `describe`, `compare`, `models`.

What needs torch is imported inside them, so that help comes at once.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from zoo.cli.train import left_out, show_rows
from zoo.runs.options import BadImagesOption, DataOption, Workers
from zoo.settings import SplitName, TrainSettings

if TYPE_CHECKING:
    from zoo.evaluation.calibration import Calibration
    from zoo.evaluation.evaluate import Evaluation


def eval_(
    run: Annotated[Path, typer.Argument(help="A run's folder, or one of its checkpoints: RUN/best, RUN/last.")],
    data: DataOption,
    split: Annotated[SplitName, typer.Option(help="Which of its splits.")] = "test",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    save: Annotated[Path | None, typer.Option(help="Also write the images and predictions.csv to this folder.")] = None,
    report: Annotated[
        Path | None, typer.Option(metavar="F.html", help="Also write a page: mistakes, confusion, calibration.")
    ] = None,
    bad_images: BadImagesOption = TrainSettings.bad_images,
    workers: Workers = TrainSettings.workers,
) -> None:
    """Measure a trained network on a data set.

    For one of the runs of `--folds`, on the data of that run, train and val are those of its fold.

    Example: `zoonnx eval runs/digits --data digits --save digits-test`
    """
    from zoo.data.kfold import fold_of
    from zoo.data.registry import find_data, redacted_name
    from zoo.evaluation.calibration import measure
    from zoo.evaluation.evaluate import evaluate
    from zoo.evaluation.predictions import save_predictions
    from zoo.report import examine, require_new_file, write_report
    from zoo.runs.load import load_run

    if report is not None:
        require_new_file(report)
    loaded = load_run(run)
    dataset = find_data(data, bad_images=bad_images, workers=workers).for_net(loaded.preprocessing)
    dataset.check_fits(loaded.labels, loaded.preprocessing, loaded.task)
    title = f"{data}, {split} split"
    if loaded.fold is not None and redacted_name(data) == loaded.weights.dataset:
        dataset, title = fold_of(dataset, *loaded.fold), f"{title} of fold {loaded.fold[0]} of {loaded.fold[1]}"
    part = dataset.split(split)
    evaluation = evaluate(loaded.network, part, loaded.preprocessing)
    if save is not None:
        save_predictions(save, part, evaluation, loaded.labels)
    if report is not None:
        write_report(report, examine(run, loaded.network, dataset, split, evaluation))
    calibration = measure(evaluation.logits, evaluation.targets, loaded.weights.metrics.get("temperature"))
    if as_json:
        _print_json({"run": str(run), "data": data, "split": split}, evaluation, calibration, dataset.skipped)
    else:
        _show_evaluation(title, evaluation, calibration, dataset.skipped)


def describe(
    network: Annotated[str, typer.Argument(metavar="NET|RUN|MODEL", help="A network, a run's folder, or models/NAME.")],
    input_size: Annotated[
        str | None, typer.Option(metavar="C,H,W", help="By default the size that the network is made for.")
    ] = None,
    depth: Annotated[int | None, typer.Option(min=0, help="Only layers this deep; 0 for the totals alone.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show every layer of a network: its window, output, parameters, work, and how much of the image a unit sees.

    Nothing is computed from images: all follows from the network's graph. The numbers of a layer include those of the
    layers inside it. `field` is the receptive field in pixels (`all`: the whole image; `<=`: at most). `stride` says
    whether the windows end exactly, leave out only padding, or drop rows of their input: in a backbone that is shown,
    in a network of this catalog it is an error. For an exported model, `in the file` says what became of each layer.

    Example: zoonnx describe resnet18 --input-size 3,224,224 --depth 2
    """
    from zoo.geometry.input_size import parse_size
    from zoo.inspect import describe as page
    from zoo.inspect.target import subject_of

    subject = subject_of(network)
    geometry = subject.geometry(parse_size(input_size) if input_size else None)
    if as_json:
        typer.echo(json.dumps(page.as_json(subject, geometry, depth)))
    else:
        page.show(subject, geometry, depth)


def compare(
    networks: Annotated[
        list[str] | None, typer.Argument(metavar="NET ...", help="Networks, runs' folders or models/NAME.")
    ] = None,
    layers: Annotated[
        str | None, typer.Option(metavar="C,H,W", help="Instead of networks: three layers on this input.")
    ] = None,
    to: Annotated[int, typer.Option(min=1, help="Channels that the layers give.")] = 8,
    kernel: Annotated[int, typer.Option(min=1, help="Taps of their windows along each axis.")] = 3,
    stride: Annotated[int, typer.Option(min=1, help="Of their windows.")] = 1,
    padding: Annotated[
        str,
        typer.Option(metavar="same|valid|P", help="Rows of zeros around the input; same: as many as keep its size."),
    ] = "same",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Put networks side by side, or the three ways to connect a layer.

    With `--layers`, a fully connected, a locally connected and a convolutional layer of one output volume: what
    looking only at neighbours saves, and what sharing the weights saves on top.

    Example: zoonnx compare --layers 1,8,8 --to 8 --kernel 3
    """
    from zoo.errors import SettingsError
    from zoo.geometry.input_size import parse_size
    from zoo.inspect import compare as page
    from zoo.inspect.target import subject_of

    if bool(networks) == bool(layers):
        raise SettingsError("give networks to compare, or --layers C,H,W")
    if layers:
        rows = page.layer_rows(page.LayerQuestion(parse_size(layers), to, kernel, stride, padding))
    else:
        rows = page.net_rows([subject_of(network) for network in networks or ()])
    if as_json:
        typer.echo(json.dumps(rows))
    else:
        page.show(rows)


def models(
    pattern: Annotated[str, typer.Argument(help="A name with wildcards, such as 'resnet*'.")] = "*",
    pretrained: Annotated[bool, typer.Option("--pretrained", help="Only what has weights to download.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """List the networks by name: ours first, then timm's.

    A list of at most 24 shows parameters and multiply-accumulates too. `weights` are those that timm can download.

    Example: zoonnx models 'mobilenetv3*' --pretrained
    """
    from zoo.inspect import list_networks as page

    rows = page.model_rows(pattern, pretrained)
    if as_json:
        typer.echo(json.dumps(rows))
    else:
        page.show(rows)


def _show_evaluation(
    title: str, evaluation: "Evaluation", calibration: "Calibration", skipped: tuple[str, ...]
) -> None:
    images = len(evaluation.targets)
    wrong = int((evaluation.predictions != evaluation.targets).reshape(images, -1).any(dim=1).sum())
    rows = {"data": title}
    if evaluation.mean_average_precision is not None:
        rows["mean average precision"] = f"{evaluation.mean_average_precision:.2%}"
        rows["macro-F1"] = f"{evaluation.macro_f1:.2%}"
    right = "accuracy" if evaluation.task == "single-label" else "every label right"
    rows[right] = f"{evaluation.accuracy:.2%} ({wrong} of {images} images wrong)"
    rows["loss"] = f"{evaluation.loss:.4f}"
    rows["calibration error"] = calibration.in_words
    show_rows(rows | left_out(skipped))


def _print_json(
    asked: dict[str, str], evaluation: "Evaluation", calibration: "Calibration", skipped: tuple[str, ...]
) -> None:
    found = {"images": len(evaluation.targets), **evaluation.scores}
    typer.echo(json.dumps({**asked, **found, **calibration.to_json(), "skipped": skipped}))
