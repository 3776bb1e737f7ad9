"""What the benchmarks of the server share: a server process, one that answers alike, and onnxruntime by itself."""

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

from bench.common import ROOT
from protos import inference, loader
from serve.engine.session import Session


@dataclass(frozen=True)
class Server:
    """A running server: where it answers, where its metrics are, and how long it took to be ready."""

    url: str
    metrics: str
    ready_s: float


@contextmanager
def serving(*arguments: object, log: int | None = subprocess.DEVNULL, http: bool = True) -> Iterator[Server]:
    """A server of these models and options, on free ports; its log goes to `log`. Without `http` it has no metrics."""
    command = [sys.executable, "-m", "zoonnx", "serve", *map(str, arguments), "--grpc-port", "0"]
    command += ["--http-port", "0"] if http else []
    start_s = time.perf_counter()
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=log, text=True) as process:
        ready = _line(process)
        ready_s = time.perf_counter() - start_s
        try:
            yield Server(ready.split()[-1], _line(process).split()[-1] if http else "", ready_s)
        finally:
            process.send_signal(signal.SIGTERM)


def _line(process: "subprocess.Popen[str]") -> str:
    line = process.stdout.readline() if process.stdout else ""
    if not line:
        raise SystemExit("a process of the benchmark ended early; what it said is above.")
    return line


@contextmanager
def canned(real: Server, model: str) -> Iterator[str]:
    """A process that gives every request the same answer, without a look at it; yields where it listens."""
    command = [sys.executable, "-m", "bench.replay_server", real.url, model]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield _line(process).split()[-1]
        finally:
            process.send_signal(signal.SIGTERM)


def executions(url: str, model: str) -> Counter[int]:
    """How many batches of each size a server has run."""
    method = next(each for each in loader.service("inference.GRPCInferenceService") if each.name == "ModelStatistics")
    request = inference.ModelStatisticsRequest(name=model)
    with grpc.insecure_channel(url) as channel:
        answer: Any = method.response.FromString(channel.unary_unary(method.path)(request.SerializeToString()))
    return Counter({each.batch_size: each.compute_infer.count for each in answer.model_stats[0].batch_stats})


def by_itself(session: Session, sizes: Sequence[int], seconds: float) -> tuple[float, float]:
    """Rows a second, and CPU milliseconds a row, of onnxruntime called in this process, with these batches in turn."""
    shape = session.inputs[0].shape[1:]
    rows = np.random.default_rng(0).integers(0, 256, (max(sizes), *shape), np.uint8)
    feeds = {size: {session.inputs[0].name: rows[:size]} for size in set(sizes)}
    outputs = [output.name for output in session.outputs]
    for each in feeds.values():
        session.run(each, outputs)
    done, turn, start_s, cpu_start_s = 0, 0, time.perf_counter(), time.process_time()
    while (spent_s := time.perf_counter() - start_s) < seconds:
        size = sizes[turn % len(sizes)]
        session.run(feeds[size], outputs)
        done, turn = done + size, turn + 1
    return done / spent_s, (time.process_time() - cpu_start_s) * 1e3 / done


def mixed(counts: Counter[int]) -> list[int]:
    """The batches that were counted, in a random order that is the same each time."""
    sizes = np.array(list(counts.elements()))
    return [int(each) for each in np.random.default_rng(0).permutation(sizes)]
