"""The models' statistics in Prometheus's text format, under Triton's names, so that dashboards made for it work.

Nothing is counted here: the numbers are read when they are asked for.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from prometheus_client import CollectorRegistry, Metric, ProcessCollector, generate_latest
from prometheus_client.registry import Collector

from serve.batching.statistics import Duration, Reason, Statistics
from serve.devices.memory import MEMINFO, meminfo_bytes
from serve.engine.model import Model
from serve.engine.model_registry import ModelRegistry

TOTAL = re.compile(rb"^(# (?:HELP|TYPE) nv_\w+)_total", re.MULTILINE)
COUNTS: Mapping[str, tuple[str, Callable[[Statistics], int]]] = {
    "nv_inference_request_success": ("Requests answered", lambda s: s.success.count),
    "nv_inference_count": ("Rows inferred: a batch of 8 counts 8", lambda s: s.inferences),
    "nv_inference_exec_count": ("Batches run: a batch of 8 counts 1", lambda s: s.executions),
}
DURATIONS: Mapping[str, tuple[str, Callable[[Statistics], Duration]]] = {
    "request": ("Requests from arrival to answer", lambda s: s.success),
    "queue": ("Requests in line", lambda s: s.queue),
    "compute_input": ("Joining batches", lambda s: s.compute.input),
    "compute_infer": ("Running the model", lambda s: s.compute.infer),
    "compute_output": ("Sharing outputs out", lambda s: s.compute.output),
}


class Metrics(Collector):
    """What `/metrics` tells."""

    def __init__(self, core: ModelRegistry) -> None:
        self._core = core
        self._registry = CollectorRegistry()
        self._registry.register(self)
        ProcessCollector(registry=self._registry)  # the server's own CPU time and memory
        self._busy = _cpu_ticks()

    def text(self) -> bytes:
        """Everything, as it is now. Triton's counters do not end in `_total`, so their headers must not either."""
        return TOTAL.sub(rb"\1", generate_latest(self._registry))

    def collect(self) -> Iterator[Metric]:
        """Read the counts of every model, then the machine's."""
        models = self._core.models()
        for name, (words, count) in COUNTS.items():
            yield _metric(name, words, "counter", ((_labels(model), count(model.statistics)) for model in models))
        yield _metric("nv_inference_request_failure", "Requests that failed, by reason", "counter", _failures(models))
        for part, (words, duration) in DURATIONS.items():
            times = ((_labels(model), _us(duration(model.statistics))) for model in models)
            yield _metric(f"nv_inference_{part}_duration_us", f"{words}: microseconds in all", "counter", times)
        pending = ((_labels(model), model.waiting) for model in models)
        yield _metric("nv_inference_pending_request_count", "Requests in line now", "gauge", pending)
        yield from self._machine()

    def _machine(self) -> Iterator[Metric]:
        memory = _memory_bytes()
        if memory:
            total, used = memory
            yield _metric("nv_cpu_memory_total_bytes", "The machine's memory", "gauge", [({}, total)])
            yield _metric("nv_cpu_memory_used_bytes", "Memory that is not available", "gauge", [({}, used)])
        before, self._busy = self._busy, _cpu_ticks()
        if before and self._busy:
            busy, all_ticks = (now - then for now, then in zip(self._busy, before, strict=True))
            share = busy / all_ticks if all_ticks else 0.0
            yield _metric("nv_cpu_utilization", "Share of the cores in use since the last look", "gauge", [({}, share)])


def _metric(name: str, words: str, kind: str, values: Iterable[tuple[dict[str, str], float]]) -> Metric:
    metric = Metric(name, words, kind)
    for labels, value in values:
        metric.add_sample(name, labels, value)
    return metric


def _labels(model: Model) -> dict[str, str]:
    return {"model": model.name, "version": str(model.version), **model.config.metric_tags}


def _failures(models: Iterable[Model]) -> Iterator[tuple[dict[str, str], float]]:
    for model in models:
        for reason in Reason:
            yield {**_labels(model), "reason": reason}, model.statistics.failures[reason]


def _us(duration: Duration) -> int:
    return duration.ns // 1000


def _cpu_ticks() -> tuple[int, int] | None:
    """Busy and all ticks of the machine's cores since it started, where the system tells."""
    path = Path("/proc/stat")
    if not path.exists():
        return None
    ticks = [int(each) for each in path.read_text().split("\n", 1)[0].split()[1:9]]
    return sum(ticks) - ticks[3] - ticks[4], sum(ticks)


def _memory_bytes() -> tuple[int, int] | None:
    """The machine's memory and how much of it is in use, where the system tells."""
    if not MEMINFO.exists():
        return None
    found = meminfo_bytes()
    return found["MemTotal"], found["MemTotal"] - found["MemAvailable"]
