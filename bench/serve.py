"""Served against in-process: rows a second over gRPC at concurrency 8, and by onnxruntime alone, in one run.

Rounds alternate, so that whatever else the machine does meets both alike. onnxruntime alone runs with the server's
threads and the batch size that the server formed most often; it has the cores to itself, while the server shares them
with the client that loads it. The ratio is therefore a lower bound of what the server itself keeps.
"""

import argparse
import asyncio
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import tritonclient.grpc

from bench.common import ROOT, machine_line, ratios, shown, summary, table, write, zoonnx
from serve.load import LoadReport, LoadSettings, measure
from serve.session import Session

MODELS = {"mobilenetv3_small": "mobilenetv3_small_100", "resnet18": "resnet18"}
CONCURRENCY = 8


def main() -> None:
    """Measure, and write bench/results/serve.json and .md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        models = Path(folder) / "models"
        for name, net in MODELS.items():
            zoonnx("export", net, "--to", models, "--name", name)
        with server(models) as (url, metrics):
            results = [compare(models, name, url, metrics, options.rounds, options.seconds) for name in MODELS]
    write("serve", results, page(results))


@contextmanager
def server(models: Path) -> Iterator[tuple[str, str]]:
    """A server of `models`: where it answers, and where its metrics are."""
    options = ["--provider", "cpu", "--grpc-port", "0", "--http-port", "0"]
    command = [sys.executable, "-m", "zoonnx", "serve", str(models), *options]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        yield process.stdout.readline().split()[-1], process.stdout.readline().split()[-1]
        process.send_signal(signal.SIGTERM)


def compare(models: Path, name: str, url: str, metrics: str, rounds: int, seconds: float) -> dict[str, Any]:
    """Measure one model both ways, turn by turn."""
    session = Session.open(models / name / "1" / "model.onnx", "cpu")
    settings = LoadSettings(name, CONCURRENCY, seconds=seconds, metrics=metrics)
    reports: list[LoadReport] = []
    alone: list[tuple[float, float]] = []
    sizes: Counter[int] = Counter()
    for _ in range(rounds):
        before = executions(url, name)
        reports.append(asyncio.run(measure(url, settings)))
        sizes += executions(url, name) - before
        alone.append(by_itself(session, sizes.most_common(1)[0][0], seconds))
    served = [report.rows_per_s for report in reports]
    rates = [rate for rate, _ in alone]
    return {
        "model": name,
        "served": summary(served),
        "alone": summary(rates),
        "ratio": ratios(served, rates),
        "batches": dict(sorted(sizes.items())),
        "p50_ms": statistics.median(report.latency_ms[50] for report in reports),
        "p99_ms": statistics.median(report.latency_ms[99] for report in reports),
        "cpu_ms_a_row_alone": statistics.median(cpu_ms for _, cpu_ms in alone),
        "cpu_ms_a_request": statistics.median(report.cpu_ms_a_request or 0 for report in reports),
    }


def executions(url: str, name: str) -> Counter[int]:
    """How many batches of each size the server has run."""
    with tritonclient.grpc.InferenceServerClient(url) as client:
        (found,) = client.get_inference_statistics(name).model_stats
    return Counter({each.batch_size: each.compute_infer.count for each in found.batch_stats})


def by_itself(session: Session, size: int, seconds: float) -> tuple[float, float]:
    """Rows a second, and CPU milliseconds a row, of onnxruntime alone."""
    shape = (size, *session.inputs[0].shape[1:])
    feeds = {session.inputs[0].name: np.random.default_rng(0).integers(0, 256, shape, np.uint8)}
    outputs = [output.name for output in session.outputs]
    session.run(feeds, outputs)
    rows, start, cpu_start = 0, time.perf_counter(), time.process_time()
    while (spent := time.perf_counter() - start) < seconds:
        session.run(feeds, outputs)
        rows += size
    return rows / spent, (time.process_time() - cpu_start) * 1e3 / rows


def page(results: list[dict[str, Any]]) -> str:
    """The results for people."""
    head = ["model", "served, rows/s", "onnxruntime alone", "ratio", "batches"]
    head += ["p50 ms", "p99 ms", "CPU ms/row", "alone, CPU ms/row"]
    said = f"concurrency {CONCURRENCY}; medians (least to most), * where noisy"
    return machine_line(said) + table(head, [cells(each) for each in results])


def cells(each: dict[str, Any]) -> list[str]:
    batches = ", ".join(f"{count} of {size}" for size, count in each["batches"].items())
    rates = [shown(each["served"], 0), shown(each["alone"], 0), shown(each["ratio"], 2)]
    times = [f"{each['p50_ms']:.1f}", f"{each['p99_ms']:.1f}"]
    cpu = [f"{each['cpu_ms_a_request']:.2f}", f"{each['cpu_ms_a_row_alone']:.2f}"]
    return [each["model"], *rates, batches, *times, *cpu]


if __name__ == "__main__":
    main()
