"""Compares int8 with fp32: resnet18, batch size 1, one thread, as measured by `zoonnx export`.

The weights are random, so there is no accuracy.
"""

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from bench.common import machine_line, table, write, zoonnx
from export.artifact.beside import report_folder

NETWORKS = ("resnet18",)
REPEATS = 3
MIN_SPEEDUP = 2.5
HEAD = (
    "network",
    "repeat",
    "fp32, ms",
    "int8, ms",
    "speedup (95 %)",
    "size, MB",
    "RAM, MB",
    "SQNR of the outputs, dB",
    f"at least {MIN_SPEEDUP:g} times as fast",
)


def main() -> None:
    """Measure and write bench/results/variants.json and .md; exit with 1 if a speedup is below MIN_SPEEDUP."""
    results = [measure(network, repeat) for network in NETWORKS for repeat in range(REPEATS)]
    page = machine_line(
        "each repeat is a new export; medians of paired measurements with their 95 % intervals; random weights"
    )
    write("variants", results, page + table(HEAD, [row(result) for result in results]))
    sys.exit(0 if all(result["speedup"] >= MIN_SPEEDUP for result in results) else 1)


def measure(network: str, repeat: int) -> dict[str, Any]:
    """Export a network with its int8 variant in separate processes, and return the measurements in its report."""
    with tempfile.TemporaryDirectory() as folder:
        models = Path(folder) / "models"
        zoonnx("export", network, "--to", models, "--name", network, "--variants", "int8", "--min-speedup", 0)
        report = report_folder(models, network, 1) / "variants.json"
        (variant,) = json.loads(report.read_text())["variants"]
    measured = variant["figures"]
    return {
        "network": network,
        "repeat": repeat,
        "how": variant["how"],
        "speedup": measured["latency"]["speedup"],
        **measured,
    }


def row(result: dict[str, Any]) -> list[str]:
    """Return one row of the table."""
    latency = result["latency"]
    return [
        result["network"],
        str(result["repeat"] + 1),
        f"{latency['fp32_ms']['median']:.2f}",
        f"{latency['variant_ms']['median']:.2f}",
        f"{latency['speedup']:.2f} ({latency['speedup_low']:.2f} to {latency['speedup_high']:.2f})",
        f"{result['fp32_bytes'] / 1e6:.1f} / {result['variant_bytes'] / 1e6:.1f}",
        " / ".join(f"{result[name]:.0f}" for name in ("fp32_peak_mb", "variant_peak_mb")),
        f"{min(result['outputs_db'].values()):.1f}",
        "yes" if result["speedup"] >= MIN_SPEEDUP else "no",
    ]


if __name__ == "__main__":
    main()
