"""Models' statistics in Prometheus's text format, under Triton's names, so that dashboards for Triton work unchanged.

The values are read from the models at each scrape.
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
    "nv_inference_request_success": ("Successful requests", lambda s: s.success.count),
    "nv_inference_count": ("Rows inferred: a batch of 8 counts 8", lambda s: s.inferences),
    "nv_inference_exec_count": ("Batches run: a batch of 8 counts 1", lambda s: s.executions),
}
DURATIONS: Mapping[str, tuple[str, Callable[[Statistics], Duration]]] = {
    "request": ("Requests from arrival to response", lambda s: s.success),
    "queue": ("Requests in the queue", lambda s: s.queue),
    "compute_input": ("Stacking batches", lambda s: s.compute.input),
    "compute_infer": ("Running the model", lambda s: s.compute.infer),
    "compute_output": ("Splitting outputs", lambda s: s.compute.output),
}


class Metrics(Collector):
    """Collector of all metrics of the server."""

    def __init__(self, registry: ModelRegistry) -> None:
        self._model_registry = registry
        self._collectors = CollectorRegistry()
        self._collectors.register(self)
        ProcessCollector(registry=self._collectors)  # the server's own CPU time and memory
        self._ticks = _cpu_ticks()

    def text(self) -> bytes:
        """Return all current metrics as text.

        prometheus_client adds `_total` to a counter's header; it is removed, because Triton's counters have no suffix.
        """
        return TOTAL.sub(rb"\1", generate_latest(self._collectors))

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics of every model, then those of the machine."""
        models = self._model_registry.models()
        for name, (description, count) in COUNTS.items():
            samples = ((_labels(model), count(model.statistics)) for model in models)
            yield _metric(name, description, "counter", samples)
        yield _metric("nv_inference_request_failure", "Failed requests, by reason", "counter", _failures(models))
        for phase, (description, duration) in DURATIONS.items():
            times_us = ((_labels(model), duration(model.statistics).ns // 1000) for model in models)
            name = f"nv_inference_{phase}_duration_us"
            yield _metric(name, f"{description}: total time in microseconds", "counter", times_us)
        pending = ((_labels(model), model.queue_length) for model in models)
        yield _metric("nv_inference_pending_request_count", "Requests in the queue now", "gauge", pending)
        yield from self._machine()

    def _machine(self) -> Iterator[Metric]:
        memory = _memory_bytes()
        if memory:
            total, used = memory
            yield _metric("nv_cpu_memory_total_bytes", "The machine's memory", "gauge", [({}, total)])
            yield _metric("nv_cpu_memory_used_bytes", "Memory in use", "gauge", [({}, used)])
        previous, self._ticks = self._ticks, _cpu_ticks()
        if previous and self._ticks:
            busy, total_ticks = (now - before for now, before in zip(self._ticks, previous, strict=True))
            share = busy / total_ticks if total_ticks else 0.0
            description = "Utilisation of the cores since the last scrape, 0 to 1"
            yield _metric("nv_cpu_utilization", description, "gauge", [({}, share)])


def _metric(name: str, description: str, kind: str, samples: Iterable[tuple[dict[str, str], float]]) -> Metric:
    metric = Metric(name, description, kind)
    for labels, value in samples:
        metric.add_sample(name, labels, value)
    return metric


def _labels(model: Model) -> dict[str, str]:
    return {"model": model.name, "version": str(model.version), **model.config.metric_tags}


def _failures(models: Iterable[Model]) -> Iterator[tuple[dict[str, str], float]]:
    for model in models:
        for reason in Reason:
            yield {**_labels(model), "reason": reason}, model.statistics.failures[reason]


def _cpu_ticks() -> tuple[int, int] | None:
    """Return busy and total ticks of the machine's cores since boot; None if the system does not report them."""
    path = Path("/proc/stat")
    if not path.exists():
        return None
    ticks = [int(field) for field in path.read_text().split("\n", 1)[0].split()[1:9]]
    return sum(ticks) - ticks[3] - ticks[4], sum(ticks)  # without idle and iowait


def _memory_bytes() -> tuple[int, int] | None:
    """Return the machine's total and used memory; None if the system does not report it."""
    if not MEMINFO.exists():
        return None
    memory = meminfo_bytes()
    return memory["MemTotal"], memory["MemTotal"] - memory["MemAvailable"]
