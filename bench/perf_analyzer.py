"""Sends a fixed number of requests with Triton's perf_analyzer, or with the project's own client where it is absent.

perf_analyzer is a C++ program: it costs a fraction of the CPU time of a Python client. It is in the Linux wheels of
tritonclient up to 2.50 (`data/bin/perf_analyzer`), and needs libb64 and libcudart. PERF_ANALYZER names the program, and
PERF_ANALYZER_LIBRARIES the folders of its libraries.
"""

import asyncio
import os
import re
import subprocess
import time
from dataclasses import dataclass

import numpy as np

from serve.client.aio import AsyncClient

PROGRAM, LIBRARIES = os.environ.get("PERF_ANALYZER", ""), os.environ.get("PERF_ANALYZER_LIBRARIES", "")


@dataclass(frozen=True)
class Load:
    """A load: `requests` requests of `rows` rows each, with `clients` of them in flight."""

    model: str
    clients: int
    rows: int
    requests: int


@dataclass(frozen=True)
class Report:
    """What a client saw: two percentiles of the latency in milliseconds."""

    p50_ms: float
    p99_ms: float


def client_name() -> str:
    """Return the name of the client that `run` uses."""
    return "perf_analyzer" if PROGRAM else "grpc.aio client"


def run(url: str, load: Load) -> Report:
    """Send all requests of a load, and return what the client saw. Raises: SystemExit if perf_analyzer failed."""
    return _run_perf_analyzer(url, load) if PROGRAM else asyncio.run(_run_client(url, load))


def _run_perf_analyzer(url: str, load: Load) -> Report:
    command = [PROGRAM, "-i", "grpc", "-u", url, "-m", load.model, "-b", str(load.rows)]
    command += ["--concurrency-range", str(load.clients), "--request-count", str(load.requests)]
    environment = {**os.environ, "LD_LIBRARY_PATH": LIBRARIES}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    percentiles = [re.search(rf"p{percentile} latency: (\d+) usec", done.stdout) for percentile in (50, 99)]
    if not all(percentiles):
        raise SystemExit(f"perf_analyzer failed: {done.stdout[-2000:]}{done.stderr[-2000:]}")
    p50, p99 = (int(match[1]) / 1e3 for match in percentiles if match)
    return Report(p50, p99)


async def _run_client(url: str, load: Load) -> Report:
    latencies_s: list[float] = []
    remaining = iter(range(load.requests))
    async with AsyncClient(url, timeout_s=60) as client:
        info = await client.model(load.model)
        inputs = {spec.name: np.zeros((load.rows, *spec.shape[1:]), np.uint8) for spec in info.inputs}

        async def send() -> None:
            for _ in remaining:
                start_s = time.perf_counter()
                await client.infer(load.model, inputs)
                latencies_s.append(time.perf_counter() - start_s)

        await asyncio.gather(*(send() for _ in range(load.clients)))
    p50, p99 = (float(np.percentile(latencies_s, percentile)) * 1e3 for percentile in (50, 99))
    return Report(p50, p99)
