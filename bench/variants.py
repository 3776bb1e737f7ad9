"""int8 beside fp32: resnet18, batch 1, one thread, measured as an export does; random weights, so no accuracy."""

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from bench.common import machine_line, table, write, zoonnx

NETS = ("resnet18",)
REPEATS = 3
NEEDED = 2.5
HEAD = (
    "network",
    "repeat",
    "fp32 ms",
    "int8 ms",
    "speedup (95 %)",
    "size, MB",
    "RAM, MB",
    "SQNR of the outputs, dB",
    "holds",
)


def main() -> None:
    """Measure, write bench/results/variants.json and .md; exit with 1 where int8 is not NEEDED times as fast."""
    results = [measured(network, repeat) for network in NETS for repeat in range(REPEATS)]
    page = machine_line(
        "each repeat is a new export; medians of paired turns with their 95 % intervals; random weights"
    )
    write("variants", results, page + table(HEAD, [row(each) for each in results]))
    sys.exit(0 if all(each["speedup"] >= NEEDED for each in results) else 1)


def measured(network: str, repeat: int) -> dict[str, Any]:
    """One export with its int8 variant, in processes of their own."""
    with tempfile.TemporaryDirectory() as folder:
        zoonnx(
            "export",
            network,
            "--to",
            Path(folder) / "models",
            "--name",
            network,
            "--variants",
            "int8",
            "--min-speedup",
            0,
        )
        report = Path(folder) / "reports" / network / "1" / "variants.json"
        (variant,) = json.loads(report.read_text())["variants"]
    figures = variant["figures"]
    return {
        "network": network,
        "repeat": repeat,
        "how": variant["how"],
        "speedup": figures["latency"]["speedup"],
        **figures,
    }


def row(result: dict[str, Any]) -> list[str]:
    """One row of the table."""
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
        "yes" if result["speedup"] >= NEEDED else f"no, needed are {NEEDED:g}",
    ]


if __name__ == "__main__":
    main()
