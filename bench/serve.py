"""Served against in-process: rows a second over gRPC at concurrency 8, and by onnxruntime in a process of its own.

Both have the same client beside them, on the same cores. In a served round a client process loads the server. In the
round after it onnxruntime runs in this process, with the server's threads and with the batches that the server has just
formed, in a random order, while the same client exchanges the same messages at the same rate with a process that
answers them without a look (`bench.canned`). So the baseline, too, pays for a client and for the transport, and the
ratio is what the server's own work and its hand-offs leave: parsing, checking, batching, sharing out, writing. What
onnxruntime does with the cores to itself, without any client, is measured as well and given beside it.

Rounds alternate, so that whatever else the machine does meets both alike. The start of a server, from the process's
begin to `ready`, is measured on a repository of one small model.
"""

import argparse
import statistics
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from bench.common import RESULTS, machine_line, ratios, shown, summary, table, write, zoonnx
from bench.serving import Load, Server, by_itself, canned, client, executions, mixed, report, serving
from serve.session import Session

MODELS = {"mobilenetv3_small": "mobilenetv3_small_100", "resnet18": "resnet18"}
CONCURRENCY = 8
STARTS = 5
HEAD_START_S = 3.0  # until a client process has started and warmed up


def main() -> None:
    """Measure, and write bench/results/serve.json and .md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--models", nargs="*", default=list(MODELS), choices=MODELS)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        models, small = Path(folder) / "models", Path(folder) / "small"
        zoonnx("export", MODELS["mobilenetv3_small"], "--to", small, "--name", "small")
        starts = [start_s(small) for _ in range(STARTS)]
        for name in options.models:
            zoonnx("export", MODELS[name], "--to", models, "--name", name)
        with serving(models, "--provider", "cpu") as server:
            results = [compare(models, name, server, options.rounds, options.seconds) for name in options.models]
    write("serve", {"ready_s": summary(starts), "models": results}, page(summary(starts), results), options.out)


def start_s(models: Path) -> float:
    """From the begin of a server's process to its `ready`, of gRPC alone, as `zoonnx serve models/` starts it."""
    with serving(models, "--provider", "cpu", http=False) as server:
        return server.ready_s


def compare(models: Path, name: str, server: Server, rounds: int, seconds: float) -> dict[str, Any]:
    """Measure one model both ways, turn by turn."""
    session = Session.open(models / name / "1" / "model.onnx", "cpu")
    load = Load(name, CONCURRENCY, seconds=seconds)
    served, beside, alone, sizes = [], [], [], Counter[int]()
    with canned(server, name) as empty:
        for _ in range(rounds):
            before = executions(server.url, name)
            served.append(report(client(server.url, load, server.metrics)))
            formed = executions(server.url, name) - before
            beside.append(beside_a_client(session, mixed(formed), empty, load, served[-1]["rows_per_s"]))
            alone.append(by_itself(session, mixed(formed), seconds))
            sizes += formed
    return {
        "model": name,
        "served": summary([each["rows_per_s"] for each in served]),
        "beside": summary([rate for rate, _ in beside]),
        "alone": summary([rate for rate, _ in alone]),
        "ratio": ratios([each["rows_per_s"] for each in served], [rate for rate, _ in beside]),
        "batches": dict(sorted(sizes.items())),
        "p50_ms": statistics.median(each["latency_ms"]["50"] for each in served),
        "p99_ms": statistics.median(each["latency_ms"]["99"] for each in served),
        "cpu_ms_a_row": statistics.median(each["cpu_ms_a_request"] for each in served),
        "cpu_ms_a_row_beside": statistics.median(cpu_ms for _, cpu_ms in beside),
    }


def beside_a_client(session: Session, sizes: list[int], url: str, load: Load, rate: float) -> tuple[float, float]:
    """Rows a second, and CPU milliseconds a row, of onnxruntime here, while a client exchanges messages at `rate`."""
    paced = Load(load.model, load.concurrency, seconds=load.seconds + 2 * HEAD_START_S, requests_per_s=rate)
    process = client(url, paced)
    time.sleep(HEAD_START_S)
    found = by_itself(session, sizes, load.seconds)
    if process.poll() is not None:
        raise SystemExit("the client ended before onnxruntime was measured beside it: give more --seconds.")
    kept = report(process)["rows_per_s"]
    if abs(kept - rate) > 0.1 * rate:
        print(f"note: the client exchanged {kept:.0f} messages a second instead of {rate:.0f}")
    return found


def page(starts: dict[str, Any], results: list[dict[str, Any]]) -> str:
    """The results for people."""
    head = ["model", "served, rows/s", "in-process, same client beside it", "ratio", "in-process, alone", "batches"]
    head += ["p50 ms", "p99 ms", "CPU ms/row", "in-process"]
    rows = []
    for each in results:
        row = [each["model"], shown(each["served"], 0), shown(each["beside"], 0), shown(each["ratio"], 2)]
        row += [shown(each["alone"], 0), ", ".join(f"{count} of {size}" for size, count in each["batches"].items())]
        row += [f"{each['p50_ms']:.1f}", f"{each['p99_ms']:.1f}"]
        rows.append([*row, f"{each['cpu_ms_a_row']:.2f}", f"{each['cpu_ms_a_row_beside']:.2f}"])
    start = f"From start to ready, one small model: {shown(starts, 2)} s.\n\n"
    text = f"concurrency {CONCURRENCY}; medians (least to most), * where noisy"
    return machine_line(text) + start + table(head, rows)


if __name__ == "__main__":
    main()
