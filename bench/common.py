"""Tools of all benchmarks: medians with confidence intervals, the machine, and results as JSON and Markdown."""

import json
import math
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "bench" / "results"
NOISY = 0.1  # an interval wider than this share of the median is flagged
Z_95 = 1.96
MEDIANS = "medians (95 % confidence intervals), * if noisy"


def zoonnx(*arguments: object) -> None:
    """Run the `zoonnx` command from the repository's root, and discard its output.

    Raises:
        subprocess.CalledProcessError: The command failed.
    """
    command = [sys.executable, "-m", "zoonnx", *map(str, arguments)]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)


def summary(values: Sequence[float]) -> dict[str, Any]:
    """Return the median of `values`, its 95 % confidence interval, and whether that interval is too wide to trust.

    The interval is between two order statistics, chosen by the normal approximation of the binomial distribution; of
    fewer than six values it is the full range.
    """
    ordered, median = sorted(values), statistics.median(values)
    outside = max(0, math.floor((len(ordered) - Z_95 * math.sqrt(len(ordered))) / 2))
    low, high = ordered[outside], ordered[-1 - outside]
    noisy = high - low > NOISY * abs(median)
    interval = {"median": median, "low": low, "high": high, "noisy": noisy}
    return {**interval, "least": ordered[0], "most": ordered[-1], "values": len(ordered)}


def ratios(numerators: Sequence[float], denominators: Sequence[float]) -> dict[str, Any]:
    """Return the summary of the pairwise ratios."""
    return summary([numerator / denominator for numerator, denominator in zip(numerators, denominators, strict=True)])


def format_summary(value: dict[str, Any], digits: int) -> str:
    """Format a summary as 'median (low to high)', with a star if it is noisy."""
    median, low, high = (f"{value[key]:.{digits}f}" for key in ("median", "low", "high"))
    return f"{median} ({low} to {high}){'*' if value['noisy'] else ''}"


def table(head: Sequence[object], rows: Sequence[Sequence[object]]) -> str:
    """Return a Markdown table that ends with a line break."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(map(str, line))} |\n" for line in lines)


def machine() -> dict[str, Any]:
    """Return the date, the number of usable cores, and the architecture."""
    return {"date": str(date.today()), "cores": len(os.sched_getaffinity(0)), "machine": platform.machine()}


def machine_line(more: str = MEDIANS) -> str:
    """Return the first sentence of a page of results, which describes the machine, and an empty line."""
    here = machine()
    return f"Measured on {here['date']}, {here['cores']} cores of {here['machine']}; {more}.\n\n"


def write(name: str, results: Any, page: str, folder: Path = RESULTS) -> None:
    """Write NAME.json, with the machine, and NAME.md into `folder`, and print the page."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps({**machine(), "results": results}, indent=1) + "\n")
    (folder / f"{name}.md").write_text(page)
    sys.stdout.write(page)
