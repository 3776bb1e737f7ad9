"""`zoonnx check`."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from export.check.results import VersionReport

SHOWN = 50  # of a version's faults on the terminal


def check(
    place: Annotated[
        Path,
        typer.Argument(metavar="models/NAME", help="a model's folder, one version's, or all models'; edge/ likewise"),
    ],
    as_json: Annotated[bool, typer.Option("--json", help="print JSON instead of tables")] = False,
) -> None:
    """Verify a written model again, from its files alone; PyTorch is not needed.

    Every file against the manifest's hashes, the manifest against its own; ONNX's checker; opset, inputs, outputs,
    labels, the rule for images and the layer map as promised, wherever they stand; every value's shape as it is
    computed at two batch sizes; the test data's outputs, within a tolerance that an export can have allowed; what the
    graph makes of images and of logits. A single changed bit in any file is found, and so is a manifest that is
    sealed again but belies the graph or itself. The exit status is 1 when something is not as promised.

    Example: zoonnx check models/digits
    """
    from rich.console import Console

    from export.check.results import visible
    from export.check.run import check_model
    from export.errors import CheckError

    with Console(stderr=True).status("checking") as status:
        reports = check_model(place, status.update)
    _print_json(reports) if as_json else _print_tables(reports)
    faults = [fault for report in reports for fault in report.faults]
    if faults:
        more = f" ({len(faults) - 1} more above)" if len(faults) > 1 else ""
        raise CheckError(f"{visible(faults[0].file)}: {visible(faults[0].words)}{more}.")


def _print_json(reports: "Sequence[VersionReport]") -> None:
    import json
    import sys
    from dataclasses import asdict

    holds = not any(True for report in reports for _ in report.faults)
    versions = [asdict(report) for report in reports]
    sys.stdout.write(
        json.dumps({"holds": holds, "versions": versions}, indent=1) + "\n"
    )  # ASCII: names of files may be no UTF-8


def _print_tables(reports: "Sequence[VersionReport]") -> None:
    from rich.console import Console

    console = Console()
    for report in reports:
        console.print(_table(report))
        faults = list(report.faults)
        for fault in faults[:SHOWN]:
            console.print(f"  [red]{_plain(fault.file)}[/]: {_plain(fault.words)}", soft_wrap=True, highlight=False)
        if len(faults) > SHOWN:
            console.print(f"  and {len(faults) - SHOWN:,} more: --json has them all.", highlight=False)
        console.print(_verdict(report), soft_wrap=True, highlight=False)


def _table(report: "VersionReport") -> object:
    from rich.table import Table

    table = Table(title=_plain(report.folder), title_justify="left", box=None, pad_edge=False)
    for heading in ("check", "result", "what was looked at"):
        table.add_column(heading)
    colours = {"holds": "green", "fails": "red", "not done": "yellow"}
    for finding in report.findings:
        result = f"[{colours[finding.result]}]{finding.result}[/]"
        table.add_row(finding.check, result, _plain(finding.about))
    return table


def _verdict(report: "VersionReport") -> str:
    held = sum(finding.result == "holds" for finding in report.findings)
    if any(True for _ in report.faults):
        return f"{held} of {len(report.findings)} checks hold."
    if report.sealed:
        return f"All {held} checks hold."
    return f"{held} checks hold. There is no manifest.json: a changed bit in its files cannot be found."


def _plain(text: str) -> str:
    from rich.markup import escape

    from export.check.results import visible

    return escape(visible(text))
