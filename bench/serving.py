"""Tools of the serving benchmarks: a server process, a replay server, and onnxruntime in this process."""

import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import grpc
import numpy as np
import psutil

from bench.common import ROOT
from protos import inference, loader
from serve.engine.session import Session


@dataclass(frozen=True)
class Server:
    """A running server.

    Attributes:
        url: HOST:PORT of its gRPC port.
        pid: Number of its process.
        metrics: URL of its metrics; empty without HTTP.
        ready_s: Seconds from the start of its process until it accepted requests.
    """

    url: str
    pid: int
    metrics: str = ""
    ready_s: float = 0.0

    def cpu_s(self) -> float:
        """Return the CPU time that the process has used, in seconds."""
        times = psutil.Process(self.pid).cpu_times()
        return float(times.user + times.system)


@contextmanager
def serving(*arguments: object, log: int | None = subprocess.DEVNULL, http: bool = True) -> Iterator[Server]:
    """Run `zoonnx serve` with `arguments` on free ports; its log goes to `log`. Without `http` it has no metrics."""
    command = [sys.executable, "-m", "zoonnx", "serve", *map(str, arguments), "--grpc-port", "0"]
    command += ["--http-port", "0"] if http else []
    start_s = time.perf_counter()
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=log, text=True) as process:
        ready = _read_line(process)
        ready_s = time.perf_counter() - start_s
        try:
            metrics = _read_line(process).split()[-1] if http else ""
            yield Server(ready.split()[-1], process.pid, metrics, ready_s)
        finally:
            process.send_signal(signal.SIGTERM)


@contextmanager
def replay_server(server: Server, model: str, frontend: str = "grpcio", rows: int = 1) -> Iterator[Server]:
    """Run a process that replays one response of `server`, to a request of `rows` rows, for every request."""
    command = [sys.executable, "-m", "bench.replay_server", server.url, model, frontend, str(rows)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield Server(_read_line(process).split()[-1], process.pid)
        finally:
            process.send_signal(signal.SIGTERM)


def _read_line(process: "subprocess.Popen[str]") -> str:
    line = process.stdout.readline() if process.stdout else ""
    if not line:
        raise SystemExit("a process of the benchmark ended early; its error is above.")
    return line


def batch_counts(url: str, model: str) -> Counter[int]:
    """Return how many batches of each size a server has run."""
    methods = loader.service("inference.GRPCInferenceService")
    method = next(method for method in methods if method.name == "ModelStatistics")
    request = inference.ModelStatisticsRequest(name=model)
    with grpc.insecure_channel(url) as channel:
        response: Any = method.response.FromString(channel.unary_unary(method.path)(request.SerializeToString()))
    return Counter({batch.batch_size: batch.compute_infer.count for batch in response.model_stats[0].batch_stats})


def run_in_process(session: Session, batch_sizes: Sequence[int], seconds: float) -> tuple[float, float]:
    """Run onnxruntime in this process with batches of the given sizes in turn.

    Returns rows per second and CPU milliseconds per row.
    """
    shape = session.inputs[0].shape[1:]
    rows = np.random.default_rng(0).integers(0, 256, (max(batch_sizes), *shape), np.uint8)
    inputs = {size: {session.inputs[0].name: rows[:size]} for size in set(batch_sizes)}
    outputs = [output.name for output in session.outputs]
    for batch in inputs.values():  # warm-up
        session.run(batch, outputs)
    rows_done, runs, start_s, cpu_start_s = 0, 0, time.perf_counter(), time.process_time()
    while (elapsed_s := time.perf_counter() - start_s) < seconds:
        size = batch_sizes[runs % len(batch_sizes)]
        session.run(inputs[size], outputs)
        rows_done, runs = rows_done + size, runs + 1
    return rows_done / elapsed_s, (time.process_time() - cpu_start_s) * 1e3 / rows_done


def shuffled_batch_sizes(counts: Counter[int]) -> list[int]:
    """Return each batch size as often as it was counted, in a random order that is the same every time."""
    sizes = np.array(list(counts.elements()))
    return [int(size) for size in np.random.default_rng(0).permutation(sizes)]
