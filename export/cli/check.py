"""`zoonnx check`."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.text import Text

    from export.check.results import VersionReport

MAX_FAILURES = 50  # printed per version
STYLES = {"verified": "green", "failed": "red", "not run": "yellow"}
HEADER = ("check", "result", "details")


def check(
    path: Annotated[
        Path,
        typer.Argument(
            metavar="models/NAME", help="Folder of a model, of one version, or of a repository; also in edge/."
        ),
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Verify a written model from its files alone, without PyTorch.

    Compares every file with the hashes in the manifest, and the manifest with its own hash. Runs the ONNX checker.
    Compares opset, inputs, outputs, labels, preprocessing and layer map between the ONNX file, the manifest and
    config.pbtxt. Runs the model: the shape of every value at two batch sizes, the outputs for the test data, the
    normalisation of images and the probabilities.

    A single changed bit in any file is detected. An edited, re-hashed manifest is rejected if it contradicts the graph
    or itself. The exit status is 1 if a check fails.

    Example: zoonnx check models/digits
    """
    from rich.console import Console

    from export.check.results import printable
    from export.check.run import check_model
    from export.errors import CheckError

    with Console(stderr=True).status("checking") as status:
        reports = check_model(path, status.update)
    _print_json(reports) if as_json else _print_reports(reports)
    failures = [failure for report in reports for failure in report.failures]
    if failures:
        more = f" ({len(failures) - 1} more above)" if len(failures) > 1 else ""
        raise CheckError(f"{printable(failures[0].file)}: {printable(failures[0].message)}{more}.")


def _print_json(reports: "Sequence[VersionReport]") -> None:
    import json
    import sys
    from dataclasses import asdict

    verified = not any(True for report in reports for _ in report.failures)
    output = {"verified": verified, "versions": [asdict(report) for report in reports]}
    sys.stdout.write(json.dumps(output, indent=1) + "\n")  # ASCII, because file names may not be UTF-8


def _print_reports(reports: "Sequence[VersionReport]") -> None:
    from rich.console import Console
    from rich.text import Text

    from export.check.results import printable

    console = Console()
    for report in reports:
        console.print(Text(printable(report.folder), "bold"), soft_wrap=True)
        for row in table(report, console.width):
            console.print(row, soft_wrap=True)
        failures = list(report.failures)
        for failure in failures[:MAX_FAILURES]:
            line = f"  failed: {printable(failure.file)}: {printable(failure.message)}"
            console.print(Text(line, "red"), soft_wrap=True)
        if len(failures) > MAX_FAILURES:
            console.print(f"  and {len(failures) - MAX_FAILURES:,} more: --json prints them all.", highlight=False)
        console.print(Text(_summary(report)), soft_wrap=True)


def table(report: "VersionReport", width: int) -> "list[Text]":
    """Return the table of a version's checks, one text per row, for a terminal of `width` columns."""
    from rich.text import Text

    from export.check.results import printable
    from export.cli.columns import GAP, column_widths, format_rows

    rows = [HEADER, *((result.check, result.status, printable(result.details)) for result in report.results)]
    status_column = column_widths(rows)[0] + GAP
    texts = [Text(text) for text in format_rows(rows, width)]
    texts[0].stylize("bold")
    for text, (_, status, _) in zip(texts[1:], rows[1:], strict=True):
        text.stylize(STYLES[status], status_column, status_column + len(status))
    return texts


def _summary(report: "VersionReport") -> str:
    verified = sum(result.status == "verified" for result in report.results)
    if any(True for _ in report.failures):
        return f"{verified} of {len(report.results)} checks passed."
    if report.has_manifest:
        return f"All {verified} checks passed."
    return f"{verified} checks passed. There is no manifest.json: a changed bit in the files cannot be detected."
