"""`zoonnx infer`."""

from typing import TYPE_CHECKING, Annotated

import typer

from serve.cli.options import DEFAULT_URL, ImagePaths, ModelName, ServerUrl
from serve.cli.progress import client_with_progress, counted

if TYPE_CHECKING:
    from serve.client.classify import ClassificationReport

UNLIMITED_WIDTH = 10**6  # characters


def infer(
    paths: ImagePaths,
    model: ModelName,
    url: ServerUrl = DEFAULT_URL,
    batch_size: Annotated[int | None, typer.Option(help="Images per request; by default the model's largest.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print all outputs as JSON.")] = False,
    as_csv: Annotated[
        bool,
        typer.Option("--csv", help="Print one CSV line per image; for a multi-label model, with the labels above 0.5."),
    ] = False,
) -> None:
    """Classify images with a served model.

    The client resizes and crops the images, with the preprocessing that is stored with the model.

    Example: zoonnx infer photos/ --model digits --url 127.0.0.1:8001
    """
    from serve.client import images
    from serve.client.classify import classify
    from serve.errors import SettingsError

    if as_json and as_csv:
        raise SettingsError("--json and --csv exclude each other.")
    files = images.find(paths)
    with client_with_progress(url, model, len(files)) as (client, advance):
        report = classify(client, model, files, batch_size, advance)
    if as_json:
        typer.echo(_json(report))
    elif as_csv:
        typer.echo(_csv(report), nl=False)
    else:
        _print_table(report)


def _json(report: "ClassificationReport") -> str:
    import json
    from dataclasses import asdict

    results = [
        {key: value for key, value in asdict(prediction).items() if key != "runner_up" and value is not None}
        for prediction in report.predictions
    ]
    summary = {"images": len(results), "seconds": report.seconds, "images_per_s": report.images_per_s}
    return json.dumps({"model": report.model, "version": report.version, **summary, "results": results})


def _csv(report: "ClassificationReport") -> str:
    import csv
    import io

    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    multi_label = any(prediction.labels is not None for prediction in report.predictions)
    writer.writerow(["file", "label", "index", "probability", *(["labels"] if multi_label else [])])
    for prediction in report.predictions:
        labels = [] if prediction.labels is None else [";".join(prediction.labels)]
        writer.writerow([prediction.file, prediction.label, prediction.index, prediction.probability, *labels])
    return text.getvalue()


def _print_table(report: "ClassificationReport") -> None:
    """Print a table, or on a narrow terminal a list, so that no name or number is cut or wrapped."""
    from rich.console import Console
    from rich.measure import Measurement
    from rich.table import Table
    from rich.text import Text

    columns, rows = _cells(report)
    table = Table(*columns, box=None)
    for row in rows:
        table.add_row(*map(Text, row))
    console = Console()
    if Measurement.get(console, console.options.update(max_width=UNLIMITED_WIDTH), table).maximum <= console.width:
        console.print(table)
    else:
        for row in rows:
            lines = [row[0], *(f"  {column}: {value}" for column, value in zip(columns[1:], row[1:], strict=True))]
            console.print(Text("\n".join(lines)), soft_wrap=True)
    Console(stderr=True).print(f"{counted(len(rows), 'image')}, {report.images_per_s:.0f} images/s")


def _cells(report: "ClassificationReport") -> tuple[list[str], list[list[str]]]:
    """Return the columns and rows of the table."""
    multi_label = any(prediction.labels is not None for prediction in report.predictions)
    columns = ["file", *(["labels", "best"] if multi_label else ["class"]), "probability", "runner-up"]
    rows = []
    for prediction in report.predictions:
        labels = [] if prediction.labels is None else [", ".join(prediction.labels) or "none"]
        best = [prediction.label, f"{prediction.probability:.1%}", prediction.runner_up]
        rows.append([prediction.file, *labels, *best])
    return columns, rows
