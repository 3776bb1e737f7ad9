"""The verb `eval`. Modules that need torch are imported inside the functions, so that help appears at once."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from zoo.cli.table import show_rows, skipped_rows
from zoo.runs.options import BadImagesOption, DataOption, Workers
from zoo.settings import SplitName, TrainSettings

if TYPE_CHECKING:
    from zoo.evaluation.calibration import Calibration
    from zoo.evaluation.evaluate import Evaluation


def eval_(
    run: Annotated[Path, typer.Argument(help="A run's folder, or one of its checkpoints: RUN/best, RUN/last.")],
    data: DataOption,
    split: Annotated[SplitName, typer.Option(help="The split to evaluate on.")] = "test",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    save: Annotated[Path | None, typer.Option(help="Also write the images and predictions.csv to this folder.")] = None,
    report: Annotated[
        Path | None,
        typer.Option(metavar="F.html", help="Also write a report: mistakes, confusion matrix, calibration."),
    ] = None,
    bad_images: BadImagesOption = TrainSettings.bad_images,
    workers: Workers = TrainSettings.workers,
) -> None:
    """Evaluate a trained network on a dataset.

    If the run is a fold of a cross-validation and DATA is its own dataset, train and val are the splits of that fold.

    Example: zoonnx eval runs/digits --data digits --save digits-test
    """
    from zoo.data.kfold import fold_of
    from zoo.data.registry import find_data, redacted_name
    from zoo.evaluation.calibration import measure
    from zoo.evaluation.evaluate import evaluate
    from zoo.evaluation.predictions import save_predictions
    from zoo.report import evaluated_run_of, require_new_file, write_report
    from zoo.runs.load import load_run

    if report is not None:
        require_new_file(report)
    loaded = load_run(run)
    dataset = find_data(data, bad_images=bad_images, workers=workers).for_network(loaded.preprocessing)
    dataset.check_fits(loaded.labels, loaded.preprocessing, loaded.task)
    title = f"{data}, {split} split"
    if loaded.fold is not None and redacted_name(data) == loaded.weights.dataset:
        dataset, title = fold_of(dataset, *loaded.fold), f"{title} of fold {loaded.fold[0]} of {loaded.fold[1]}"
    images = dataset.split(split)
    evaluation = evaluate(loaded.network, images, loaded.preprocessing)
    if save is not None:
        save_predictions(save, images, evaluation, loaded.labels)
    if report is not None:
        write_report(report, evaluated_run_of(run, loaded.network, dataset, split, evaluation))
    calibration = measure(evaluation.logits, evaluation.targets, loaded.weights.metrics.get("temperature"))
    if as_json:
        _print_json({"run": str(run), "data": data, "split": split}, evaluation, calibration, dataset.skipped)
    else:
        _show_evaluation(title, evaluation, calibration, dataset.skipped)


def _show_evaluation(
    title: str, evaluation: "Evaluation", calibration: "Calibration", skipped: tuple[str, ...]
) -> None:
    images = len(evaluation.targets)
    wrong = int((evaluation.predictions != evaluation.targets).reshape(images, -1).any(dim=1).sum())
    rows = {"data": title}
    if evaluation.mean_average_precision is not None:
        rows["mean average precision"] = f"{evaluation.mean_average_precision:.2%}"
        rows["macro-F1"] = f"{evaluation.macro_f1:.2%}"
    accuracy = "accuracy" if evaluation.task == "single-label" else "all labels correct"
    rows[accuracy] = f"{evaluation.accuracy:.2%} ({wrong} of {images} images wrong)"
    rows["loss"] = f"{evaluation.loss:.4f}"
    rows["calibration error"] = calibration.summary
    show_rows(rows | skipped_rows(skipped))


def _print_json(
    request: dict[str, str], evaluation: "Evaluation", calibration: "Calibration", skipped: tuple[str, ...]
) -> None:
    images = {"images": len(evaluation.targets)}
    typer.echo(json.dumps({**request, **images, **evaluation.scores, **calibration.to_json(), "skipped": skipped}))
