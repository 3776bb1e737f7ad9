"""A client process that lives through a benchmark: it asks when told to, without a start between.

It reads one order a line, JSON with the `url` and the fields of `LoadSettings`, and writes one report a line.
"""

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

from bench.common import ROOT
from serve.client.load_test import LoadSettings, measure


class Asker:
    """The benchmark's end of it. `begin` an order, then `report`, which waits until it is done."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def begin(self, url: str, load: LoadSettings) -> None:
        """Let it ask, for half a second more than it measures."""
        self._pipe("stdin").write(json.dumps({"url": url, **asdict(load)}) + "\n")
        self._pipe("stdin").flush()

    def report(self) -> dict[str, Any]:
        """What it measured. Raises: SystemExit, where the client failed."""
        line = self._pipe("stdout").readline()
        if not line:
            raise SystemExit("the client of the benchmark ended early; what it said is above.")
        found: dict[str, Any] = json.loads(line)
        return found

    def ask(self, url: str, load: LoadSettings) -> dict[str, Any]:
        """Both in one."""
        self.begin(url, load)
        return self.report()

    def _pipe(self, name: str) -> Any:
        return getattr(self._process, name)


@contextmanager
def asking() -> Iterator[Asker]:
    """A client process."""
    command = [sys.executable, "-m", "bench.load_client"]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield Asker(process)
        if process.stdin:
            process.stdin.close()


def main() -> None:
    """Carry out orders until there are no more."""
    for line in sys.stdin:
        order = json.loads(line)
        report = asyncio.run(measure(order.pop("url"), LoadSettings(**order)))
        print(json.dumps({**asdict(report), "rows_per_s": report.rows_per_s}), flush=True)


if __name__ == "__main__":
    main()
