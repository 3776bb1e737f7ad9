"""What the server itself costs: its CPU time per request over that of an empty handler plus onnxruntime.

For each load, three measurements alternate: the server; a process that answers the same requests with a recorded
response on the same frontend (`bench.replay_server`); and onnxruntime in this process, with the batch sizes that the
server has just formed. The ratio of the first to the sum of the others is what parsing, batching, splitting and
encoding cost. All measurements of a row are taken in one run, so that other load on the machine affects them alike.
"""

import argparse
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
from onnx import TensorProto, helper

from bench.common import RESULTS, format_summary, machine_line, ratios, summary, table, write, zoonnx
from bench.perf_analyzer import Load, client_name, run
from bench.serving import Server, batch_counts, replay_server, run_in_process, serving, shuffled_batch_sizes
from serve.engine.session import Session
from serve.repository.runtime_options import RuntimeOptions

NETWORKS = {"lenet": "lenet5", "mobilenetv3_small": "mobilenetv3_small_100", "resnet18": "resnet18"}
PIXELS = "pixels"
FRONTENDS = ("native", "grpcio")


@dataclass(frozen=True)
class Row:
    """A load of the table; `requests` is the number of requests of one measurement."""

    model: str
    clients: int
    rows: int
    requests: int


ROWS = (
    Row("lenet", 1, 1, 4_000),
    Row("lenet", 8, 1, 16_000),
    Row("lenet", 32, 1, 24_000),
    Row("lenet", 4, 16, 4_000),
    Row(PIXELS, 8, 1, 6_000),
    Row("mobilenetv3_small", 8, 1, 600),
    Row("resnet18", 8, 1, 100),
)


def main() -> None:
    """Measure, and write bench/results/request_path.json and .md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=6, help="measurements of each kind per row")
    parser.add_argument("--models", nargs="*", default=sorted({row.model for row in ROWS}))
    parser.add_argument("--frontends", nargs="*", default=FRONTENDS, choices=FRONTENDS)
    parser.add_argument("--repository", type=Path, help="use the models of this folder instead of exporting them")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    rows = [row for row in ROWS if row.model in options.models]
    with repository(options.repository, {row.model for row in rows}) as models:
        results = [measure(models, row, frontend, options.rounds) for frontend in options.frontends for row in rows]
    write("request_path", results, page(results), options.out)


@contextmanager
def repository(given: Path | None, names: set[str]) -> Iterator[Path]:
    """Yield a folder with the models; exported ones are deleted afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        models = given or Path(folder)
        for name in sorted(names):
            if not (models / name).exists():
                write_pixels(models) if name == PIXELS else zoonnx(
                    "export", NETWORKS[name], "--to", models, "--name", name
                )
        yield models


def write_pixels(models: Path) -> None:
    """Write a model that accepts 150 KB images and computes next to nothing."""
    nodes = [
        helper.make_node("Slice", ["image", "start", "end", "axes"], ["corner"]),
        helper.make_node("Cast", ["corner"], ["numbers"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["numbers", "axes"], ["mean"], keepdims=0),
    ]
    constants = {"start": [0, 0], "end": [4, 4], "axes": [1, 2]}
    graph = helper.make_graph(
        nodes,
        PIXELS,
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["n", 224, 224, 3])],
        [helper.make_tensor_value_info("mean", TensorProto.FLOAT, ["n", 3])],
        [helper.make_tensor(name, TensorProto.INT64, [2], values) for name, values in constants.items()],
    )
    folder = models / PIXELS / "1"
    folder.mkdir(parents=True)
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), folder / "model.onnx"
    )
    (folder.parent / "config.pbtxt").write_text("max_batch_size: 32 dynamic_batching { }\n")


def measure(models: Path, row: Row, frontend: str, rounds: int) -> dict[str, Any]:
    """Measure one row of the table on one frontend."""
    load = Load(row.model, row.clients, row.rows, row.requests)
    session = Session.open(models / row.model / "1" / "model.onnx", "cpu", RuntimeOptions(intra_op_threads=1))
    reports, costs_us = [], []
    with (
        serving(models, "--provider", "cpu", "--grpc-frontend", frontend, http=False) as server,
        replay_server(server, row.model, frontend, row.rows) as replay,
    ):
        for target in (server, replay):
            run(target.url, Load(row.model, row.clients, row.rows, max(row.clients, row.requests // 10)))
        for _ in range(rounds):
            before = batch_counts(server.url, row.model)
            report, cpu_us = _cpu_us(server, load)
            sizes = shuffled_batch_sizes(batch_counts(server.url, row.model) - before)
            _, empty_us = _cpu_us(replay, load)
            runtime_ms = run_in_process(session, sizes, 1.0)[1]
            reports.append(report)
            costs_us.append((cpu_us, empty_us, runtime_ms * 1e3 * row.rows))
    cpu, empty, runtime = (list(values) for values in zip(*costs_us, strict=True))
    return {
        "model": row.model,
        "frontend": frontend,
        "clients": row.clients,
        "rows": row.rows,
        "p50_ms": summary([report.p50_ms for report in reports]),
        "p99_ms": summary([report.p99_ms for report in reports]),
        "cpu_us": summary(cpu),
        "empty_us": summary(empty),
        "runtime_us": summary(runtime),
        "ratio": ratios(cpu, [one + other for one, other in zip(empty, runtime, strict=True)]),
        "ratio_to_empty": ratios(cpu, empty),
        "mean_batch": sum(sizes) / len(sizes),
    }


def _cpu_us(server: Server, load: Load) -> tuple[Any, float]:
    """Run a load; return the client's report, and the server's CPU time per request in microseconds."""
    before_s = server.cpu_s()
    report = run(server.url, load)
    return report, (server.cpu_s() - before_s) * 1e6 / load.requests


def page(results: list[dict[str, Any]]) -> str:
    """Return the results as Markdown."""
    head = ["frontend", "model", "clients", "rows", "p50, p99 ms", "CPU us", "empty", "runtime", "ratio"]
    rows = [
        [
            result["frontend"],
            result["model"],
            result["clients"],
            result["rows"],
            f"{result['p50_ms']['median']:.2f}, {result['p99_ms']['median']:.2f}",
            f"{result['cpu_us']['median']:.0f}",
            f"{result['empty_us']['median']:.0f}",
            f"{result['runtime_us']['median']:.0f}",
            format_summary(result["ratio"], 2),
        ]
        for result in results
    ]
    text = (
        "CPU time per request in microseconds: of the server, of an empty handler on the same frontend, and of "
        "onnxruntime at the batch sizes that occurred; the ratio is the first over the sum of the others.\n\n"
    )
    return machine_line(f"client {client_name()}; medians") + text + table(head, rows)


if __name__ == "__main__":
    main()
