"""All figures of a version's variants, kept and refused: for people, for programs, and on the terminal.

Written under reports/NAME/VERSION: what depends on the machine and the day belongs there, outside every hash.
"""

import json
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import onnxruntime

from export.artifact.report import report_folder
from export.errors import TargetError
from export.variants.eval_data import Evidence
from export.variants.measure import Figures
from export.variants.runner import Outcome, Plan
from zoo.storage.atomic_io import write_file

MEASURED = ("accuracy", "drop, points", "SQNR, dB", "worst layer", "size, MB", "ms", "speedup", "RAM, MB")
FILES = {"ort": "model.ort", "fixed": "model.fixed.onnx"}  # of the folder for devices
EXPLAINED = """\
fp32 stands before the slash; ms and RAM are the median and the peak of one image on one thread. The speedup is the
median over rounds in which both ran one after the other, with its 95 % interval; it need not be the ratio of the ms."""
HEAD = ("variant", "verdict", *MEASURED)


def write_reports(models: Path, name: str, version: int, planned: Plan, outcomes: Sequence[Outcome]) -> Path:
    """Write variants.md and variants.json and return the page's path. Raises: TargetError."""
    folder = report_folder(models, name, version)
    facts = _facts(name, version, planned, outcomes)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_file(folder / "variants.json", (json.dumps(facts, indent=1) + "\n").encode())
        write_file(folder / "variants.md", page(facts, planned, outcomes).encode())
    except OSError as error:
        kept = ", ".join(each.kind for each in outcomes if each.verdict.kept) or "none"
        raise TargetError(
            f"version {version} of {name} stands, and of its variants: {kept}; but not their report: cannot write "
            f"{folder / 'variants.md'}: {error.strerror or error}."
        ) from error
    return folder / "variants.md"


def page(facts: dict[str, Any], planned: Plan, outcomes: Sequence[Outcome]) -> str:
    """The page for people."""
    lines = [f"# {facts['name']}, version {facts['version']}: variants", "", _judged_on(planned.evidence), ""]
    lines += [_row(HEAD), _row(["---"] * len(HEAD)), *(_row(cells(each)) for each in outcomes), ""]
    lines += [EXPLAINED, ""]
    for each in outcomes:
        lines += _section(each)
    here = facts["machine"]
    lines += [f"Measured on {facts['date']}: {here['processor']}, {here['cores']} cores, {here['onnxruntime']}.", ""]
    return "\n".join(lines)


def lines(outcome: Outcome) -> list[str]:
    """The same for the terminal, in few words: the variant's figures, and fp32's behind 'of'."""
    head = f"{outcome.kind:<6}{'kept' if outcome.verdict.kept else 'REFUSED'}"
    found = outcome.figures
    if found is None:
        return [head]
    costs = [f"{found.variant_bytes / 1e6:.2f} of {found.fp32_bytes / 1e6:.2f} MB"]
    if found.latency:
        ms, speed = found.latency, found.latency.speedup
        costs.append(f"{ms.variant_ms.median:.3g} of {ms.fp32_ms.median:.3g} ms, {speed:.2f} times as fast")
    quality = [f"outputs at {found.output_db:.1f} dB"]
    if found.worst_layer:
        quality.append(f"worst layer {found.worst_layer[0]} at {found.worst_layer[1]:.1f} dB")
    if found.accuracy:
        quality.insert(0, f"accuracy {found.accuracy.variant:.2%} of {found.accuracy.fp32:.2%}")
    where = [f"      {outcome.folder / FILES.get(outcome.kind, '')}"] if outcome.folder else []
    return [f"{head}: {', '.join(costs)}", f"      {', '.join(quality)}", *where]


def cells(outcome: Outcome) -> list[str]:
    """One row: a dash where nothing was measured."""
    verdict = "kept" if outcome.verdict.kept else "REFUSED"
    found = outcome.figures
    if found is None:
        return [outcome.kind, verdict, *["-"] * len(MEASURED)]
    return [outcome.kind, verdict, *_accuracy(found), f"{found.output_db:.1f}", _worst(found), *_costs(found)]


def _accuracy(found: Figures) -> list[str]:
    if found.accuracy is None:
        return ["-", "-"]
    return [f"{found.accuracy.fp32:.2%} / {found.accuracy.variant:.2%}", f"{found.accuracy.drop_points:.2f}"]


def _worst(found: Figures) -> str:
    return f"{found.worst_layer[0]} {found.worst_layer[1]:.1f}" if found.worst_layer else "-"


def _costs(found: Figures) -> list[str]:
    size = f"{found.fp32_bytes / 1e6:.2f} / {found.variant_bytes / 1e6:.2f}"
    peaks = (found.fp32_peak_mb, found.variant_peak_mb)
    memory = "-" if None in peaks else " / ".join(f"{peak:.0f}" for peak in peaks)
    if found.latency is None:
        return [size, "-", "not measured", memory]
    times, speed = found.latency, found.latency
    ms = f"{times.fp32_ms.median:.3g} / {times.variant_ms.median:.3g}"
    return [size, ms, f"{speed.speedup:.2f} ({speed.speedup_low:.2f} to {speed.speedup_high:.2f})", memory]


def _section(outcome: Outcome) -> list[str]:
    lines = [f"## {outcome.kind}: {'kept' if outcome.verdict.kept else 'REFUSED'}", ""]
    lines += [f"- {words}" for words in (outcome.how, *outcome.verdict.reasons, *outcome.verdict.notes) if words]
    found = outcome.figures
    if found and found.latency:
        each = found.latency
        lines.append(
            f"- {each.rounds} paired rounds on {each.device}: fp32 {each.fp32_ms.median:.3g} ms (middle half "
            f"{each.fp32_ms.low:.3g} to {each.fp32_ms.high:.3g}), {outcome.kind} {each.variant_ms.median:.3g} ms "
            f"({each.variant_ms.low:.3g} to {each.variant_ms.high:.3g})"
        )
    if found and found.layers_db:
        lines += ["", _row(["layer", "SQNR, dB"]), _row(["---", "---"])]
        lines += [_row([name, f"{db:.1f}"]) for name, db in found.layers_db.items()]
    return [*lines, ""]


def _judged_on(evidence: Evidence) -> str:
    test = evidence.test
    if not evidence.trained:
        return f"The network is **untrained**: judged by SQNR on {len(test.images)} images of {evidence.dataset}."
    what = "accuracy" if not evidence.unlabelled else f"agreement with fp32 ({evidence.unlabelled})"
    return f"Judged by {what} on {len(test.images)} of {test.of} test images of {evidence.dataset}."


def _facts(name: str, version: int, planned: Plan, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    evidence = planned.evidence
    return {
        "name": name,
        "version": version,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {
            "processor": _processor(),
            "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
            "onnxruntime": f"onnxruntime {onnxruntime.__version__}",
        },
        "dataset": evidence.dataset,
        "untrained": not evidence.trained,
        "test_images": len(evidence.test.images),
        "bounds": asdict(planned.settings.bounds),
        "target": planned.settings.target,
        "variants": [
            {
                "kind": each.kind,
                "kept": each.verdict.kept,
                "how": each.how,
                "reasons": list(each.verdict.reasons),
                "notes": list(each.verdict.notes),
                "figures": asdict(each.figures) if each.figures else None,
            }
            for each in outcomes
        ],
    }


def _processor() -> str:
    """The processor's name as Linux tells it, its architecture elsewhere."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def _row(entries: Sequence[str]) -> str:
    return f"| {' | '.join(entries)} |"
