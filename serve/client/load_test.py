"""Load test: sends a constant load to one model of a server, and measures throughput and latency."""

import asyncio
import re
import time
import urllib.request
from collections.abc import Coroutine, Iterator, Mapping
from dataclasses import dataclass
from itertools import count, repeat
from typing import Any

import numpy as np

from serve.client.aio import AsyncClient
from serve.client.batches import Limits, split
from serve.client.messages import infer_request
from serve.client.model_info import ModelInfo
from serve.errors import SettingsError, UnreachableError, UnsupportedModelError
from serve.wire import datatypes
from serve.wire.tensors import Array, TensorSpec

PERCENTILES = (50, 90, 95, 99)
WARM_UP_S = 0.5
CPU_METRIC = re.compile(r"^process_cpu_seconds_total (\S+)$", re.MULTILINE)


@dataclass(frozen=True)
class LoadSettings:
    """The load, and the duration of the measurement.

    Attributes:
        model: The model's name.
        concurrency: Requests in flight at any time, 1 or more; at a fixed rate, the most requests in flight.
        batch_size: Rows per request, 1 or more.
        seconds: Duration of the measurement, more than 0; a warm-up of WARM_UP_S precedes it.
        metrics: URL of the server's Prometheus metrics, from which its CPU time is read; empty to skip that.
        requests_per_s: Rate at which requests start, evenly spaced; 0 starts a request whenever another completes.
    """

    model: str
    concurrency: int = 8
    batch_size: int = 1
    seconds: float = 5.0
    metrics: str = ""
    requests_per_s: float = 0.0

    def __post_init__(self) -> None:
        if self.concurrency < 1 or self.batch_size < 1:
            raise SettingsError(
                f"concurrency and batch size must be 1 or more; got {self.concurrency} and {self.batch_size}."
            )
        if not self.seconds > 0:
            raise SettingsError(f"the duration must be more than 0 seconds; got {self.seconds}.")
        if self.requests_per_s < 0:
            raise SettingsError(f"the rate must be 0 (no fixed rate) or more; got {self.requests_per_s}.")
        if self.metrics and not self.metrics.startswith(("http://", "https://")):
            raise SettingsError(f"metrics must be a URL such as http://127.0.0.1:8000/metrics; got '{self.metrics}'.")


@dataclass(frozen=True)
class LoadReport:
    """The result of a load test.

    Attributes:
        model: The model's name.
        requests: Requests completed during the measurement.
        rows: Rows in those requests.
        seconds: Duration of the measurement.
        latency_ms: Latency in milliseconds, by percentile.
        cpu_ms_a_request: CPU time of the server per request; None if it was not read.
    """

    model: str
    requests: int
    rows: int
    seconds: float
    latency_ms: Mapping[int, float]
    cpu_ms_a_request: float | None

    @property
    def rows_per_s(self) -> float:
        return self.rows / self.seconds


@dataclass(frozen=True)
class _CompletedRequest:
    """The end of a request since the start of the measurement, and its latency."""

    end_s: float
    latency_s: float


async def measure(url: str, settings: LoadSettings) -> LoadReport:
    """Send random tensors, and count the requests that complete after the warm-up and before the end.

    Raises:
        UnsupportedModelError: Random tensors cannot be generated for the model's inputs.
        UnreachableError: The server or its metrics cannot be reached.
        SettingsError: The batch exceeds what the server accepts in one request, or no request completed during the
            measurement.
    """
    async with AsyncClient(url, retries=0) as client:
        inputs = _random_inputs(await client.model(settings.model), settings.batch_size)
        completed, cpu_s = await gather_or_cancel(_run_load(client, settings, inputs), _server_cpu_s(settings))
    latencies_s = [request.latency_s for request in completed if 0 <= request.end_s < settings.seconds]
    requests = len(latencies_s)
    if not requests:
        raise SettingsError(f"no request completed within {settings.seconds:g} seconds: measure for longer.")
    return LoadReport(
        model=settings.model,
        requests=requests,
        rows=requests * settings.batch_size,
        seconds=settings.seconds,
        latency_ms={percentile: float(np.percentile(latencies_s, percentile)) * 1e3 for percentile in PERCENTILES},
        cpu_ms_a_request=None if cpu_s is None else cpu_s * 1e3 / requests,
    )


async def gather_or_cancel(*coroutines: Coroutine[Any, Any, Any]) -> list[Any]:
    """Return the results of all coroutines; if one fails, cancel the others before its error is raised."""
    tasks = [asyncio.create_task(coroutine) for coroutine in coroutines]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _run_load(
    client: AsyncClient, settings: LoadSettings, inputs: Mapping[str, Array]
) -> list[_CompletedRequest]:
    """Send requests until the measurement ends; the load stays constant until then."""
    begin_s = time.perf_counter() + WARM_UP_S
    completed: list[_CompletedRequest] = []

    async def send_requests(start_times: Iterator[float]) -> None:
        for scheduled_s in start_times:
            await asyncio.sleep(max(0.0, begin_s - WARM_UP_S + scheduled_s - time.perf_counter()))
            start_s = time.perf_counter()
            if start_s >= begin_s + settings.seconds:
                return
            await client.infer(settings.model, inputs)
            end_s = time.perf_counter()
            completed.append(_CompletedRequest(end_s - begin_s, end_s - start_s))

    workers = range(settings.concurrency)
    await gather_or_cancel(*(send_requests(_start_times(settings, worker)) for worker in workers))
    return completed


def _start_times(settings: LoadSettings, worker: int) -> Iterator[float]:
    """Yield the start of a worker's requests in seconds since the warm-up began; always 0 without a fixed rate."""
    if not settings.requests_per_s:
        return repeat(0.0)
    return (number / settings.requests_per_s for number in count(worker, settings.concurrency))


def _random_inputs(info: ModelInfo, batch_size: int) -> dict[str, Array]:
    largest = max(1, info.max_batch_size)
    if batch_size > largest:
        raise SettingsError(f"model '{info.name}' accepts batches of up to {largest}; got {batch_size}.")
    inputs = {spec.name: _random(info, spec, batch_size) for spec in info.inputs}
    limits = Limits(info.max_batch_size, info.max_message_bytes)
    requests = split(infer_request(info.name, inputs, None, ""), limits)
    if len(requests) > 1:
        raise SettingsError(
            f"a batch of {batch_size} rows exceeds the {info.max_message_bytes} bytes that the server accepts in one "
            f"request: measure with a batch size of at most {len(next(iter(requests[0].inputs)).array)}."
        )
    return inputs


def _random(info: ModelInfo, spec: TensorSpec, batch_size: int) -> Array:
    if spec.datatype in (datatypes.BYTES.name, datatypes.BF16.name):
        raise UnsupportedModelError(
            f"model '{info.name}': input '{spec.name}' is {spec.datatype}, for which no random values are generated."
        )
    shape = (batch_size, *spec.shape[1:]) if info.max_batch_size else spec.shape
    if -1 in shape:
        raise UnsupportedModelError(
            f"model '{info.name}': input '{spec.name}' has a dynamic size in its shape {list(spec.shape)}; "
            "only the batch may be dynamic."
        )
    random = np.random.default_rng(0)
    dtype = datatypes.BY_NAME[spec.datatype].numpy
    return random.random(shape).astype(dtype) if dtype.kind == "f" else random.integers(0, 2, shape).astype(dtype)


async def _server_cpu_s(settings: LoadSettings) -> float | None:
    """Return the server's CPU time during the measurement; None if the settings name no metrics."""
    if not settings.metrics:
        return None
    await asyncio.sleep(WARM_UP_S)
    before_s = await asyncio.to_thread(_read_cpu_s, settings.metrics)
    await asyncio.sleep(settings.seconds)
    return await asyncio.to_thread(_read_cpu_s, settings.metrics) - before_s


def _read_cpu_s(metrics: str) -> float:
    """Return the server's total CPU time according to its metrics."""
    try:
        with urllib.request.urlopen(metrics, timeout=10) as response:  # noqa: S310  LoadSettings allows only HTTP URLs
            match = CPU_METRIC.search(response.read().decode())
    except (OSError, ValueError) as error:
        raise UnreachableError(f"cannot read metrics from {metrics}: {error}") from error
    if not match:
        raise UnreachableError(f"{metrics} has no metric process_cpu_seconds_total.")
    return float(match[1])
