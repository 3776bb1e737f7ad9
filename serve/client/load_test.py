"""Puts a steady load on one model of a server, and measures what it does."""

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
from serve.client.model_info import ModelInfo
from serve.errors import SettingsError, UnreachableError, UnsupportedModelError
from serve.wire import datatypes
from serve.wire.tensors import Array, TensorSpec

PERCENTILES = (50, 90, 95, 99)
WARM_UP_S = 0.5
CPU = re.compile(r"^process_cpu_seconds_total (\S+)$", re.MULTILINE)


@dataclass(frozen=True)
class LoadSettings:
    """`concurrency` requests of `batch_size` rows are always under way, for `seconds`.

    With `requests_per_s` they begin at that rate instead, evenly, and no more than `concurrency` are under way.
    `metrics` is the address of the server's metrics, from which its CPU time is read; empty where that is not wanted.
    """

    model: str
    concurrency: int = 8
    batch_size: int = 1
    seconds: float = 5.0
    metrics: str = ""
    requests_per_s: float = 0.0

    def __post_init__(self) -> None:
        if self.concurrency < 1 or self.batch_size < 1:
            raise SettingsError("concurrency and batch size must be 1 or more.")
        if not self.seconds > 0:
            raise SettingsError(f"the time to measure must be more than 0 seconds; got {self.seconds}.")
        if self.requests_per_s < 0:
            raise SettingsError(f"the rate must be 0 (as fast as answers come) or more; got {self.requests_per_s}.")
        if self.metrics and not self.metrics.startswith(("http://", "https://")):
            raise SettingsError(
                f"metrics are at an address such as http://127.0.0.1:8000/metrics; got '{self.metrics}'."
            )


@dataclass(frozen=True)
class LoadReport:
    """What was measured; `cpu_ms_a_request` is the server's, None where it was not asked for."""

    model: str
    requests: int
    rows: int
    seconds: float
    latency_ms: Mapping[int, float]
    cpu_ms_a_request: float | None

    @property
    def rows_per_s(self) -> float:
        return self.rows / self.seconds


async def measure(url: str, settings: LoadSettings) -> LoadReport:
    """Ask with random tensors, from WARM_UP_S before it counts until the end; what is answered in between counts.

    Raises:
        UnsupportedModelError: no tensors can be made up for the model.
        UnreachableError: the server, or its metrics, cannot be asked.
        SettingsError: no answer came while it measured.
    """
    async with AsyncClient(url, retries=0) as client:
        inputs = _inputs(await client.model(settings.model), settings.batch_size)
        answers, cpu_s = await all_of(_load(client, settings, inputs), _cpu_spent_s(settings))
    latencies_s = [each.latency_s for each in answers if 0 <= each.end_s < settings.seconds]
    number = len(latencies_s)
    if not number:
        raise SettingsError(f"no request was answered within {settings.seconds:g} seconds: measure for longer.")
    return LoadReport(
        model=settings.model,
        requests=number,
        rows=number * settings.batch_size,
        seconds=settings.seconds,
        latency_ms={each: float(np.percentile(latencies_s, each)) * 1e3 for each in PERCENTILES},
        cpu_ms_a_request=None if cpu_s is None else cpu_s * 1e3 / number,
    )


@dataclass(frozen=True)
class _Answer:
    """When it came, from the begin of what counts, and how long it took."""

    end_s: float
    latency_s: float


async def _load(client: AsyncClient, settings: LoadSettings, inputs: Mapping[str, Array]) -> list[_Answer]:
    """Every request is followed by another until the time is over: a server that runs dry would be another load."""
    begin_s = time.perf_counter() + WARM_UP_S
    answers: list[_Answer] = []

    async def ask(turns: Iterator[float]) -> None:
        for turn_s in turns:
            await asyncio.sleep(max(0.0, begin_s - WARM_UP_S + turn_s - time.perf_counter()))
            start_s = time.perf_counter()
            if start_s >= begin_s + settings.seconds:
                return
            await client.infer(settings.model, inputs)
            end_s = time.perf_counter()
            answers.append(_Answer(end_s - begin_s, end_s - start_s))

    await all_of(*(ask(_turns(settings, each)) for each in range(settings.concurrency)))
    return answers


async def all_of(*work: Coroutine[Any, Any, Any]) -> list[Any]:
    """What each gives; where one fails, the others are ended before its error is raised."""
    tasks = [asyncio.create_task(each) for each in work]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _turns(settings: LoadSettings, worker: int) -> Iterator[float]:
    """When one of the workers asks, in seconds after the start: in its turn, or without a rate at once."""
    if not settings.requests_per_s:
        return repeat(0.0)
    return (number / settings.requests_per_s for number in count(worker, settings.concurrency))


def _inputs(info: ModelInfo, batch_size: int) -> dict[str, Array]:
    if batch_size > max(1, info.max_batch_size):
        raise SettingsError(
            f"model '{info.name}' takes batches of up to {max(1, info.max_batch_size)}; got {batch_size}."
        )
    return {spec.name: _random(info, spec, batch_size) for spec in info.inputs}


def _random(info: ModelInfo, spec: TensorSpec, batch_size: int) -> Array:
    if spec.datatype in (datatypes.BYTES.name, datatypes.BF16.name):
        raise UnsupportedModelError(f"model '{info.name}' takes {spec.datatype}, for which no numbers can be made up.")
    shape = (batch_size, *spec.shape[1:]) if info.max_batch_size else spec.shape
    if -1 in shape:
        raise UnsupportedModelError(f"model '{info.name}': input '{spec.name}' has a free size, {list(spec.shape)}.")
    random = np.random.default_rng(0)
    dtype = datatypes.BY_NAME[spec.datatype].numpy
    return random.random(shape).astype(dtype) if dtype.kind == "f" else random.integers(0, 2, shape).astype(dtype)


async def _cpu_spent_s(settings: LoadSettings) -> float | None:
    """The server's CPU time while it is measured; None where that is not wanted."""
    if not settings.metrics:
        return None
    await asyncio.sleep(WARM_UP_S)
    before_s = await asyncio.to_thread(_cpu_s, settings.metrics)
    await asyncio.sleep(settings.seconds)
    return await asyncio.to_thread(_cpu_s, settings.metrics) - before_s


def _cpu_s(metrics: str) -> float:
    """The server's CPU time until now, as its metrics tell."""
    try:
        with urllib.request.urlopen(metrics, timeout=10) as answer:  # noqa: S310  http and https only, see LoadSettings
            found = CPU.search(answer.read().decode())
    except (OSError, ValueError) as error:
        raise UnreachableError(f"no metrics come from {metrics}: {error}") from error
    if not found:
        raise UnreachableError(f"{metrics} tells nothing of the server's CPU time.")
    return float(found[1])
