"""Variants on the command line: what was typed, progress, the table, the report, and the exit status."""

from collections.abc import Mapping
from pathlib import Path

from rich.console import Console

from export.settings import ExportSettings
from export.variants.report import lines, write_reports
from export.variants.runner import Plan, make_variants, plan, require_all_kept
from export.variants.settings import Bounds, VariantSettings, parse_kinds, parse_target
from zoo import LoadedNetwork


def planned(
    loaded: LoadedNetwork, export: ExportSettings, kinds: str, data: str, target: str, bounds: Mapping[str, float]
) -> Plan:
    """Read what was typed, and the images. Raises: ExportError, ZooError."""
    settings = VariantSettings(
        parse_kinds(kinds), calibration_data=data, target=parse_target(target), bounds=Bounds(**bounds)
    )
    return plan(loaded, export.to, export.name, settings)


def finish(plan: Plan, version: Path, console: Console) -> None:
    """Make the variants of the version in that folder, and say what became of them.

    Raises: VariantError where one was refused, after all else is written.
    """
    models, name = version.parent.parent, version.parent.name
    with console.status("variants") as status:
        outcomes = make_variants(plan, version, lambda step: status.update(f"{name}: {step}"))
    page = write_reports(models, name, int(version.name), plan, outcomes)
    out = Console()
    for each in outcomes:
        for words in lines(each):
            out.print(words, soft_wrap=True, highlight=False, markup=False)
        for words in (*each.verdict.reasons, *each.verdict.notes):
            out.print(f"{each.kind}: {words}", soft_wrap=True, highlight=False, markup=False)
    out.print(f"report: {page}", soft_wrap=True, highlight=False, markup=False)
    require_all_kept(outcomes)
