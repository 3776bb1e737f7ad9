"""What the benchmarks share: medians with their spread, the machine, and results for programs and for people."""

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
NOISY = 0.1  # an interval that is wider than this share of the median is flagged
Z_95 = 1.96
MEDIANS = "medians (their 95 % intervals), * where noisy"


def zoonnx(*arguments: object) -> None:
    """Run the command from the repository's root; its output is dropped.

    Raises:
        subprocess.CalledProcessError: The command failed.
    """
    command = [sys.executable, "-m", "zoonnx", *map(str, arguments)]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)


def summary(values: Sequence[float]) -> dict[str, Any]:
    """The median of `values`, the interval that it lies in with 95 %, and whether that is too wide to be trusted.

    The interval is that of order statistics, by the normal approximation of the binomial distribution; of less than six
    values it is all of them.
    """
    ordered, median = sorted(values), statistics.median(values)
    outside = max(0, math.floor((len(ordered) - Z_95 * math.sqrt(len(ordered))) / 2))
    low, high = ordered[outside], ordered[-1 - outside]
    noisy = high - low > NOISY * abs(median)
    interval = {"median": median, "low": low, "high": high, "noisy": noisy}
    return {**interval, "least": ordered[0], "most": ordered[-1], "values": len(ordered)}


def ratios(numerators: Sequence[float], denominators: Sequence[float]) -> dict[str, Any]:
    """The summary of the ratios of what was measured turn by turn."""
    return summary([one / other for one, other in zip(numerators, denominators, strict=True)])


def shown(value: dict[str, Any], digits: int) -> str:
    """A summary as 'median (low to high)', with a star where it is noisy."""
    median, low, high = (f"{value[each]:.{digits}f}" for each in ("median", "low", "high"))
    return f"{median} ({low} to {high}){'*' if value['noisy'] else ''}"


def table(head: Sequence[object], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table; ends with a line break."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(map(str, line))} |\n" for line in lines)


def machine() -> dict[str, Any]:
    """Where and when this runs."""
    return {"date": str(date.today()), "cores": len(os.sched_getaffinity(0)), "machine": platform.machine()}


def machine_line(more: str = MEDIANS) -> str:
    """The machine as the sentence that a page of results begins with; ends with an empty line."""
    here = machine()
    return f"Measured on {here['date']}, {here['cores']} cores of {here['machine']}; {more}.\n\n"


def write(name: str, results: Any, page: str, folder: Path = RESULTS) -> None:
    """Write NAME.json, with the machine, and NAME.md into bench/results or another `folder`; show the page."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps({**machine(), "results": results}, indent=1) + "\n")
    (folder / f"{name}.md").write_text(page)
    sys.stdout.write(page)
