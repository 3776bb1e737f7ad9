"""Writes the measurements of all variants of a version, accepted and rejected, as Markdown and as JSON.

The files are in `report_folder`, beside the repository. No hash covers them: they depend on the machine and the date.
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

from export.artifact.beside import report_folder
from export.artifact.report import table
from export.errors import TargetError
from export.variants.acceptance import Verdict
from export.variants.eval_data import EvalData
from export.variants.measure import Measurements
from export.variants.runner import Outcome, Plan
from zoo.storage.atomic_io import write_file

HEADER = (
    "variant",
    "verdict",
    "accuracy",
    "drop, points",
    "SQNR, dB",
    "worst layer",
    "size, MB",
    "latency, ms",
    "speedup",
    "RAM, MB",
)
EXPLANATION = """\
In each pair, the first number is that of fp32. Latency is the median and RAM the peak of one image with one thread. The
speedup is the median ratio of paired runs, with its 95 % interval; it may differ from the ratio of the latencies."""


def write_reports(models: Path, name: str, version: int, plan: Plan, outcomes: Sequence[Outcome]) -> Path:
    """Write variants.md and variants.json and return the path of the first. Raises: TargetError."""
    folder = report_folder(models, name, version)
    facts = _facts(name, version, plan, outcomes)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_file(folder / "variants.json", (json.dumps(facts, indent=1) + "\n").encode())
        write_file(folder / "variants.md", report_text(facts, plan, outcomes).encode())
    except OSError as error:
        accepted = ", ".join(outcome.kind for outcome in outcomes if outcome.verdict.accepted) or "none"
        raise TargetError(
            f"version {version} of {name} was written, with its variants: {accepted}; but the report was not: "
            f"cannot write {folder / 'variants.md'}: {error.strerror or error}."
        ) from error
    return folder / "variants.md"


def report_text(facts: dict[str, Any], plan: Plan, outcomes: Sequence[Outcome]) -> str:
    """Return the report as Markdown."""
    machine = facts["machine"]
    sections = [
        f"# {facts['name']}, version {facts['version']}: variants\n",
        f"{_evaluated_on(plan.eval_data)}\n",
        table(HEADER, [_row(outcome) for outcome in outcomes]),
        f"{EXPLANATION}\n",
        *(_section(outcome) for outcome in outcomes),
        f"Measured on {facts['date']}: {machine['processor']}, {machine['cores']} cores, {machine['onnxruntime']}.\n",
    ]
    return "\n".join(sections)


def verdict_word(verdict: Verdict) -> str:
    """Return the text of the verdict in reports and on the terminal."""
    return "accepted" if verdict.accepted else "REJECTED"


def _row(outcome: Outcome) -> list[str]:
    """Return one row of the table, with a dash for each missing measurement."""
    measured = outcome.measured
    if measured is None:
        return [outcome.kind, verdict_word(outcome.verdict), *["-"] * (len(HEADER) - 2)]
    return [
        outcome.kind,
        verdict_word(outcome.verdict),
        *_accuracy_cells(measured),
        f"{measured.output_db:.1f}",
        f"{measured.worst_layer[0]} {measured.worst_layer[1]:.1f}" if measured.worst_layer else "-",
        *_cost_cells(measured),
    ]


def _accuracy_cells(measured: Measurements) -> list[str]:
    if measured.accuracy is None:
        return ["-", "-"]
    return [f"{measured.accuracy.fp32:.2%} / {measured.accuracy.variant:.2%}", f"{measured.accuracy.drop_points:.2f}"]


def _cost_cells(measured: Measurements) -> list[str]:
    size = f"{measured.fp32_bytes / 1e6:.2f} / {measured.variant_bytes / 1e6:.2f}"
    peaks = (measured.fp32_peak_mb, measured.variant_peak_mb)
    memory = "-" if None in peaks else " / ".join(f"{peak:.0f}" for peak in peaks)
    latency = measured.latency
    if latency is None:
        return [size, "-", "not measured", memory]
    ms = f"{latency.fp32_ms.median:.3g} / {latency.variant_ms.median:.3g}"
    return [size, ms, f"{latency.speedup:.2f} ({latency.speedup_low:.2f} to {latency.speedup_high:.2f})", memory]


def _section(outcome: Outcome) -> str:
    verdict, measured = outcome.verdict, outcome.measured
    items = [text for text in (outcome.how, *verdict.reasons, *verdict.notes) if text]
    if measured and measured.latency:
        latency = measured.latency
        fp32, variant = latency.fp32_ms, latency.variant_ms
        items.append(
            f"{latency.rounds} paired measurements on {latency.device}, median and quartiles: fp32 {fp32.median:.3g} "
            f"ms ({fp32.low:.3g} to {fp32.high:.3g}), {outcome.kind} {variant.median:.3g} ms ({variant.low:.3g} to "
            f"{variant.high:.3g})"
        )
    text = f"## {outcome.kind}: {verdict_word(verdict)}\n\n" + "".join(f"- {item}\n" for item in items)
    if measured and measured.layers_db:
        text += "\n" + table(("layer", "SQNR, dB"), [(name, f"{db:.1f}") for name, db in measured.layers_db.items()])
    return text


def _evaluated_on(eval_data: EvalData) -> str:
    test = eval_data.test
    count = len(test.images)
    if not eval_data.is_trained:
        return f"The network is **untrained**: evaluated by SQNR on {count} images of {eval_data.dataset}."
    reason = eval_data.unlabelled_reason
    metric = f"agreement with fp32's predictions ({reason})" if reason else "accuracy"
    return f"Evaluated by {metric} on {count} of {test.split_size} test images of {eval_data.dataset}."


def _facts(name: str, version: int, plan: Plan, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Return the content of variants.json."""
    eval_data = plan.eval_data
    return {
        "name": name,
        "version": version,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {
            "processor": _processor(),
            "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
            "onnxruntime": f"onnxruntime {onnxruntime.__version__}",
        },
        "dataset": eval_data.dataset,
        "untrained": not eval_data.is_trained,
        "test_images": len(eval_data.test.images),
        "bounds": asdict(plan.settings.bounds),
        "target": plan.settings.target,
        "variants": [
            {
                "kind": outcome.kind,
                "kept": outcome.verdict.accepted,
                "how": outcome.how,
                "reasons": list(outcome.verdict.reasons),
                "notes": list(outcome.verdict.notes),
                "figures": _measurements(outcome.measured) if outcome.measured else None,
            }
            for outcome in outcomes
        ],
    }


def _measurements(measured: Measurements) -> dict[str, Any]:
    fields = asdict(measured)
    if fields["accuracy"]:
        fields["accuracy"]["of"] = fields["accuracy"].pop("split_size")
    return fields


def _processor() -> str:
    """Return the processor's name on Linux, its architecture elsewhere."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
