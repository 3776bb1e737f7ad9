"""Serving against in-process inference: rows per second over gRPC at concurrency 8, and of onnxruntime alone.

In a served round, a client process loads the server. In the round after it, onnxruntime runs in this process, with the
server's number of threads and with the batches that the server has just formed, in random order, while the same client
exchanges the same messages at the same rate with a process that replays responses (`bench.replay_server`). Both rounds
use the same cores. So the baseline pays for a client and for the transport as well, and the ratio is the cost of the
server's own work and hand-offs: parsing, validation, batching, splitting, encoding. The throughput of onnxruntime with
all cores and no client is measured too, and reported beside it.

Rounds are short and alternate, and each round of onnxruntime is compared with the served rounds before and after it, so
that other load on the machine affects both alike. The start-up time of a server, from the start of its process to
`ready`, is measured with a repository of one small model.
"""

import argparse
import statistics
import tempfile
import time
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from bench.common import MEDIANS, RESULTS, format_summary, machine_line, ratios, summary, table, write, zoonnx
from bench.load_client import LoadClient, load_client
from bench.serving import Server, batch_counts, replay_server, run_in_process, serving, shuffled_batch_sizes
from serve.client.load_test import WARM_UP_S, LoadSettings
from serve.engine.session import Session

MODELS = {"mobilenetv3_small": "mobilenetv3_small_100", "resnet18": "resnet18"}
CONCURRENCY = 8
STARTS = 5
ALONE_ROUNDS = 3
MARGIN_S = 0.4  # how much longer the client runs than onnxruntime beside it, half before and half after


def main() -> None:
    """Measure, and write bench/results/serve.json and .md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=24, help="pairs of rounds per model")
    parser.add_argument("--seconds", type=float, default=2.0, help="duration of a round")
    parser.add_argument("--models", nargs="*", default=list(MODELS), choices=MODELS)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        models, small = Path(folder) / "models", Path(folder) / "small"
        zoonnx("export", MODELS["mobilenetv3_small"], "--to", small, "--name", "small")
        starts = [startup_s(small) for _ in range(STARTS)]
        for name in options.models:
            zoonnx("export", MODELS[name], "--to", models, "--name", name)
        with serving(models, "--provider", "cpu") as server:
            results = [compare(models, name, server, options.turns, options.seconds) for name in options.models]
    write("serve", {"ready_s": summary(starts), "models": results}, page(summary(starts), results), options.out)


def startup_s(models: Path) -> float:
    """Return the seconds from the start of a server without HTTP, as `zoonnx serve models/` runs it, to `ready`."""
    with serving(models, "--provider", "cpu", http=False) as server:
        return server.ready_s


def compare(models: Path, name: str, server: Server, rounds: int, seconds: float) -> dict[str, Any]:
    """Measure one model both ways; each round of onnxruntime lies between two served rounds."""
    session = Session.open(models / name / "1" / "model.onnx", "cpu")
    load = LoadSettings(name, CONCURRENCY, seconds=seconds, metrics=server.metrics)
    all_batches, served, beside = Counter[int](), [], []
    with replay_server(server, name) as replay, load_client() as client:
        client.run(server.url, load)  # the first load test includes the imports
        for _ in range(rounds):
            batches, report = _serve_round(server, client, load)
            served.append(report)
            all_batches += batches
            sizes = shuffled_batch_sizes(batches)
            beside.append(run_beside_client(session, sizes, client, replay.url, load, report["rows_per_s"]))
        served.append(_serve_round(server, client, load)[1])
    alone = [run_in_process(session, shuffled_batch_sizes(all_batches), seconds)[0] for _ in range(ALONE_ROUNDS)]
    served_rates = [report["rows_per_s"] for report in served]
    beside_rates = [rate for rate, _ in beside]
    neighbours = [(before + after) / 2 for before, after in pairwise(served_rates)]
    return {
        "model": name,
        "served": summary(served_rates),
        "beside": summary(beside_rates),
        "alone": summary(alone),
        "ratio": ratios(neighbours, beside_rates),
        "batches": dict(sorted(all_batches.items())),
        "p50_ms": statistics.median(report["latency_ms"]["50"] for report in served),
        "p99_ms": statistics.median(report["latency_ms"]["99"] for report in served),
        "cpu_ms_a_row": statistics.median(report["cpu_ms_a_request"] for report in served),
        "cpu_ms_a_row_beside": statistics.median(cpu_ms for _, cpu_ms in beside),
    }


def _serve_round(server: Server, client: LoadClient, load: LoadSettings) -> tuple[Counter[int], dict[str, Any]]:
    """Run a load test; return the batches that the server formed, and the client's report."""
    before = batch_counts(server.url, load.model)
    report = client.run(server.url, load)
    return batch_counts(server.url, load.model) - before, report


def run_beside_client(
    session: Session, batch_sizes: list[int], client: LoadClient, url: str, load: LoadSettings, rate: float
) -> tuple[float, float]:
    """Run onnxruntime in this process while a client exchanges messages at `rate` per second.

    Returns rows per second and CPU milliseconds per row of onnxruntime.
    """
    client.start(url, replace(load, seconds=load.seconds + MARGIN_S, requests_per_s=rate, metrics=""))
    time.sleep(WARM_UP_S + MARGIN_S / 2)
    result = run_in_process(session, batch_sizes, load.seconds)
    actual_rate = client.wait()["rows_per_s"]
    if abs(actual_rate - rate) > 0.1 * rate:
        print(f"note: the client exchanged {actual_rate:.0f} messages/s instead of {rate:.0f}")
    return result


def page(starts: dict[str, Any], results: list[dict[str, Any]]) -> str:
    """Return the results as Markdown."""
    head = ["model", "served, rows/s", "in-process beside the same client", "ratio", "in-process alone", "batches"]
    head += ["p50 ms", "p99 ms", "CPU ms/row", "in-process"]
    rows = []
    for result in results:
        row = [
            result["model"],
            format_summary(result["served"], 0),
            format_summary(result["beside"], 0),
            format_summary(result["ratio"], 2),
        ]
        row += [
            format_summary(result["alone"], 0),
            ", ".join(f"{count} of {size}" for size, count in result["batches"].items()),
        ]
        row += [f"{result['p50_ms']:.1f}", f"{result['p99_ms']:.1f}"]
        rows.append([*row, f"{result['cpu_ms_a_row']:.2f}", f"{result['cpu_ms_a_row_beside']:.2f}"])
    startup = f"Start-up to ready, one small model: {format_summary(starts, 2)} s.\n\n"
    return machine_line(f"concurrency {CONCURRENCY}; {MEDIANS}") + startup + table(head, rows)


if __name__ == "__main__":
    main()
