"""Served against in-process: rows a second over gRPC at concurrency 8, and by onnxruntime in a process of its own.

Both have the same client beside them, on the same cores. In a served turn a client process loads the server. In the
turn after it onnxruntime runs in this process, with the server's threads and with the batches that the server has just
formed, in a random order, while the same client exchanges the same messages at the same rate with a process that
answers them without a look (`bench.replay_server`). So the baseline pays for a client and for the transport, and the
ratio is what the server's own work and its hand-offs leave: parsing, checking, batching, sharing out, writing. What
onnxruntime does with the cores to itself, without any client, is measured as well and given beside it.

Turns are short and alternate, and each of onnxruntime is held against the served ones before and after it, so that
whatever else the machine does meets both alike. The start of a server, from the process's begin to `ready`, is measured
on a repository of one small model.
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

from bench.common import MEDIANS, RESULTS, machine_line, ratios, shown, summary, table, write, zoonnx
from bench.load_client import Asker, asking
from bench.serving import Server, by_itself, canned, executions, mixed, serving
from serve.client.load_test import WARM_UP_S, LoadSettings
from serve.engine.session import Session

MODELS = {"mobilenetv3_small": "mobilenetv3_small_100", "resnet18": "resnet18"}
CONCURRENCY = 8
STARTS = 5
ALONE = 3
MARGIN_S = 0.4  # for which a client asks before onnxruntime begins beside it, and after


def main() -> None:
    """Measure, and write bench/results/serve.json and .md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=24)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each turn")
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
            results = [compare(models, name, server, options.turns, options.seconds) for name in options.models]
    write("serve", {"ready_s": summary(starts), "models": results}, page(summary(starts), results), options.out)


def start_s(models: Path) -> float:
    """From the begin of a server's process to its `ready`, of gRPC alone, as `zoonnx serve models/` starts it."""
    with serving(models, "--provider", "cpu", http=False) as server:
        return server.ready_s


def compare(models: Path, name: str, server: Server, turns: int, seconds: float) -> dict[str, Any]:
    """Measure one model both ways, turn by turn; each turn of onnxruntime lies between two served ones."""
    session = Session.open(models / name / "1" / "model.onnx", "cpu")
    load = LoadSettings(name, CONCURRENCY, seconds=seconds, metrics=server.metrics)
    sizes, served, beside = Counter[int](), [], []
    with canned(server, name) as empty, asking() as asker:
        asker.ask(server.url, load)  # the first one also imports
        for _ in range(turns):
            formed, report = _served(server, asker, load)
            served.append(report)
            sizes += formed
            beside.append(beside_a_client(session, mixed(formed), asker, empty, load, report["rows_per_s"]))
        served.append(_served(server, asker, load)[1])
    alone = [by_itself(session, mixed(sizes), seconds)[0] for _ in range(ALONE)]
    rates = [each["rows_per_s"] for each in served]
    around = [(before + after) / 2 for before, after in pairwise(rates)]
    return {
        "model": name,
        "served": summary(rates),
        "beside": summary([rate for rate, _ in beside]),
        "alone": summary(alone),
        "ratio": ratios(around, [rate for rate, _ in beside]),
        "batches": dict(sorted(sizes.items())),
        "p50_ms": statistics.median(each["latency_ms"]["50"] for each in served),
        "p99_ms": statistics.median(each["latency_ms"]["99"] for each in served),
        "cpu_ms_a_row": statistics.median(each["cpu_ms_a_request"] for each in served),
        "cpu_ms_a_row_beside": statistics.median(cpu_ms for _, cpu_ms in beside),
    }


def _served(server: Server, asker: Asker, load: LoadSettings) -> tuple[Counter[int], dict[str, Any]]:
    """The batches that the server formed under this load, and what the client measured."""
    before = executions(server.url, load.model)
    report = asker.ask(server.url, load)
    return executions(server.url, load.model) - before, report


def beside_a_client(
    session: Session, sizes: list[int], asker: Asker, url: str, load: LoadSettings, rate: float
) -> tuple[float, float]:
    """Rows a second, and CPU milliseconds a row, of onnxruntime here, while a client exchanges messages at `rate`."""
    asker.begin(url, replace(load, seconds=load.seconds + MARGIN_S, requests_per_s=rate, metrics=""))
    time.sleep(WARM_UP_S + MARGIN_S / 2)
    found = by_itself(session, sizes, load.seconds)
    kept = asker.report()["rows_per_s"]
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
    text = f"concurrency {CONCURRENCY}; {MEDIANS}"
    return machine_line(text) + start + table(head, rows)


if __name__ == "__main__":
    main()
