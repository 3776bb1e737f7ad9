"""A process that runs load tests one after another, so that no test pays for starting a process.

It reads one load test per line, JSON with the `url` and the fields of `LoadSettings`, and writes one report per line.
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


class LoadClient:
    """Controls the process: `start` a load test, then `wait` for its report."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def start(self, url: str, load: LoadSettings) -> None:
        """Start a load test, which runs for WARM_UP_S longer than it measures."""
        stdin: Any = self._process.stdin
        stdin.write(json.dumps({"url": url, **asdict(load)}) + "\n")
        stdin.flush()

    def wait(self) -> dict[str, Any]:
        """Return the report of the load test. Raises: SystemExit if the process failed."""
        stdout: Any = self._process.stdout
        line = stdout.readline()
        if not line:
            raise SystemExit("the load client ended early; its error is above.")
        report: dict[str, Any] = json.loads(line)
        return report

    def run(self, url: str, load: LoadSettings) -> dict[str, Any]:
        """Start a load test, and return its report."""
        self.start(url, load)
        return self.wait()


@contextmanager
def load_client() -> Iterator[LoadClient]:
    """Start a load client process; it ends with the block."""
    command = [sys.executable, "-m", "bench.load_client"]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield LoadClient(process)
        if process.stdin:
            process.stdin.close()


def main() -> None:
    """Run load tests until stdin is closed."""
    for line in sys.stdin:
        settings = json.loads(line)
        report = asyncio.run(measure(settings.pop("url"), LoadSettings(**settings)))
        print(json.dumps({**asdict(report), "rows_per_s": report.rows_per_s}), flush=True)


if __name__ == "__main__":
    main()
