"""The variants of `zoonnx export`: parses their options, builds them, and prints the results."""

from pathlib import Path

from rich.console import Console
from rich.text import Text

from export.cli.columns import Cell, format_rows
from export.settings import ExportSettings
from export.variants.measure import Measurements
from export.variants.report import verdict_word, write_reports
from export.variants.runner import Outcome, Plan, make_variants, plan, require_all_accepted
from export.variants.settings import Bounds, VariantSettings, parse_kinds, parse_target
from export.variants.write import EDGE_MODELS
from zoo import LoadedNetwork


def parse_plan(
    loaded: LoadedNetwork,
    export: ExportSettings,
    kinds: str,
    calibration_data: str,
    target: str,
    bounds: tuple[float, float],
) -> Plan:
    """Parse the options and load the images; `bounds` are the accuracy drop in points and the speedup.

    Raises: ExportError, ZooError.
    """
    max_accuracy_drop, min_speedup = bounds
    settings = VariantSettings(
        parse_kinds(kinds),
        calibration_data=calibration_data,
        target=parse_target(target),
        bounds=Bounds(max_accuracy_drop, min_speedup),
    )
    return plan(loaded, export.to, export.name, settings)


def build_variants(plan: Plan, version: Path, progress_console: Console) -> None:
    """Build the variants of the version in the folder `version`, write their report, and print the results.

    Raises: VariantError if a variant was rejected, after all others are written.
    """
    models, name = version.parent.parent, version.parent.name
    with progress_console.status("variants") as status:
        outcomes = make_variants(plan, version, lambda step: status.update(f"{name}: {step}"))
    report = write_reports(models, name, int(version.name), plan, outcomes)
    console = Console()
    for row in format_rows(
        [*(row for outcome in outcomes for row in rows(outcome)), ("report", report)], console.width
    ):
        console.print(Text(row), soft_wrap=True)
    require_all_accepted(outcomes)


def rows(outcome: Outcome) -> list[tuple[str, Cell]]:
    """Return the results for one variant, one label and one text per row."""
    table: list[tuple[str, Cell]] = [(outcome.kind, verdict_word(outcome.verdict))]
    if outcome.measured:
        table += _measurement_rows(outcome.measured)
    table += [("  reason", reason) for reason in outcome.verdict.reasons]
    table += [("  note", note) for note in outcome.verdict.notes]
    if outcome.folder:
        table.append(("  path", outcome.folder / EDGE_MODELS.get(outcome.kind, "")))
    return table


def _measurement_rows(measured: Measurements) -> list[tuple[str, Cell]]:
    table: list[tuple[str, Cell]] = [
        ("  size", f"{measured.variant_bytes / 1e6:.2f} MB (fp32: {measured.fp32_bytes / 1e6:.2f} MB)")
    ]
    if measured.latency:
        latency = measured.latency
        table.append(
            (
                "  latency",
                f"{latency.variant_ms.median:.3g} ms (fp32: {latency.fp32_ms.median:.3g} ms), "
                f"speedup {latency.speedup:.2f}",
            )
        )
    if measured.accuracy:
        table.append(("  accuracy", f"{measured.accuracy.variant:.2%} (fp32: {measured.accuracy.fp32:.2%})"))
    sqnr = f"outputs {measured.output_db:.1f} dB"
    if measured.worst_layer:
        sqnr += f", worst layer {measured.worst_layer[0]} {measured.worst_layer[1]:.1f} dB"
    return [*table, ("  SQNR", sqnr)]
