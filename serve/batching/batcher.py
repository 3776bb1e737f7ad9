"""Runs requests that arrive together as one batch.

Requests that may share a batch wait in one queue (`batching.scheduler`): they have the same plan (the session that runs
them), and inputs of the same shape except for the batch. A queue is due when it fills a batch, or when its oldest
request has waited `max_delay_us`. Queues grow while the model is busy: with a delay of 0, an idle model runs a request
at once, and a busy model still forms batches.

The event loop accepts requests and delivers outputs. The model's worker threads take batches from the queues, run them,
split the outputs and pass them to the event loop.
"""

import asyncio
import contextlib
import functools
import threading
import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from itertools import accumulate
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from serve.batching.queue import Arrays, BatchSettings, Outputs, QueuedRequest, QueuePolicy
from serve.batching.scheduler import BatchKey, Scheduler
from serve.batching.statistics import Reason, Statistics, Timing
from serve.errors import UnavailableError

PlanT = TypeVar("PlanT", bound=Hashable)


class Batcher(Generic[PlanT]):
    """Queues and worker threads of one model; each instance has a thread, which calls `run(inputs, plan)`."""

    def __init__(
        self, run: Callable[[Arrays, PlanT], Arrays], settings: BatchSettings, statistics: Statistics, name: str = ""
    ) -> None:
        self._run, self._settings, self._statistics = run, settings, statistics
        self._scheduler = Scheduler[PlanT](settings)
        self._pending: set[asyncio.Future[Outputs]] = set()
        self._loop = asyncio.get_running_loop()
        names = [f"{name}#{index}" for index in range(settings.instances)]
        threads = [threading.Thread(target=self._work, name=name, daemon=True) for name in names]
        self._running_threads, self._all_ended = len(threads), asyncio.Event()
        for thread in threads:
            thread.start()

    async def submit(
        self, inputs: Arrays, rows: int, plan: PlanT, *, priority: int = 0, timeout_us: int = 0, alone: bool = False
    ) -> Outputs:
        """Return the outputs of `run` for `inputs`, whose first dimension is `rows`.

        With `alone`, the request is a batch of its own; necessary if the first dimension of an output is not the batch.

        Raises:
            UnavailableError: The queue is full, or the request's timeout passed before its batch ran.
        """
        level = self._settings.level(priority)
        policy = self._settings.policy_at(level)
        request = QueuedRequest(inputs, rows, level, self._loop.create_future(), alone=alone)
        self._check_queue_size(request, policy)
        shapes = tuple(sorted((name, array.dtype.str, array.shape[1:]) for name, array in inputs.items()))
        key = (plan, request if alone else shapes)
        self._pending.add(request.outputs)
        request.outputs.add_done_callback(functools.partial(self._on_done, key, request))
        self._scheduler.add(key, request)
        self._start_timeout(key, request, policy, policy.timeout_for(timeout_us))
        return await request.outputs

    @property
    def queue_length(self) -> int:
        """Number of queued requests."""
        return len(self._scheduler)

    async def close(self) -> None:
        """Finish all queued requests, then end the threads."""
        while self._pending:
            await asyncio.wait(set(self._pending))
        self._scheduler.close()
        await self._all_ended.wait()

    def _check_queue_size(self, request: QueuedRequest, policy: QueuePolicy) -> None:
        if policy.max_queue_size and self._scheduler.count_at(request.level) >= policy.max_queue_size:
            self._statistics.failed(request.enqueued_ns, Reason.REJECTED)
            raise UnavailableError(f"the model's queue is full: {policy.max_queue_size} requests are waiting.")

    def _on_done(self, key: BatchKey[PlanT], request: QueuedRequest, outputs: "asyncio.Future[Outputs]") -> None:
        """Remove a finished request from the pending ones, and from its queue if its client cancelled it."""
        self._pending.discard(outputs)
        if not outputs.cancelled():
            return
        self._scheduler.remove(key, request)  # blocks while a thread takes the batch
        if not request.taken:
            self._statistics.failed(request.enqueued_ns, Reason.CANCELED)

    def _start_timeout(
        self, key: BatchKey[PlanT], request: QueuedRequest, policy: QueuePolicy, timeout_us: int
    ) -> None:
        """Reject or defer a request that is still queued after `timeout_us`, also while the model is busy."""
        if not timeout_us:
            return

        def expire() -> None:
            if request.outputs.done() or not self._scheduler.remove(key, request):
                return
            if policy.defer_on_timeout:
                request.expired = True
                self._scheduler.add(key, request)
                return
            self._statistics.failed(request.enqueued_ns, Reason.REJECTED)
            error = UnavailableError(f"the request did not leave the queue within {timeout_us} microseconds.")
            request.outputs.set_exception(error)

        timer = self._loop.call_later(timeout_us / 1e6, expire)
        request.outputs.add_done_callback(lambda _: timer.cancel())

    def _work(self) -> None:
        """Run batches until the scheduler is closed, in one of the model's threads."""
        while (plan_and_batch := self._scheduler.take()) is not None:
            self._run_batch(*plan_and_batch)
        self._call_in_loop(self._on_thread_end)

    def _on_thread_end(self) -> None:
        self._running_threads -= 1
        if not self._running_threads:
            self._all_ended.set()

    def _call_in_loop(self, function: Callable[..., None], *arguments: Any) -> None:
        """Schedule a call in the event loop, unless the loop was closed without waiting for this thread."""
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(function, *arguments)

    def _run_batch(self, plan: PlanT, batch: Sequence[QueuedRequest]) -> None:
        try:
            self._run_and_split(plan, batch)
        except Exception as error:  # noqa: BLE001  any error of the model is the result of its requests
            self._call_in_loop(self._fail, batch, error)

    def _run_and_split(self, plan: PlanT, batch: Sequence[QueuedRequest]) -> None:
        taken_ns = time.monotonic_ns()
        rows = sum(request.rows for request in batch)
        padded_rows = rows if batch[0].alone else self._settings.padded_rows(rows)
        inputs = _stack_inputs([request.inputs for request in batch], padded_rows - rows)
        infer_ns = time.monotonic_ns()
        outputs = self._run(inputs, plan)
        output_ns = time.monotonic_ns()
        if (len(batch) > 1 or padded_rows > rows) and not _is_batched(outputs, padded_rows):
            for request in batch:
                self._run_batch(plan, [replace(request, alone=True)])
            return
        starts = accumulate((request.rows for request in batch[:-1]), initial=0)
        split = [
            _slice(outputs, start, request.rows, padded_rows) for request, start in zip(batch, starts, strict=True)
        ]
        timing = Timing(taken_ns, infer_ns, output_ns, time.monotonic_ns())
        self._call_in_loop(self._succeed, batch, split, timing)

    def _succeed(self, batch: Sequence[QueuedRequest], split: Sequence[Outputs], timing: Timing) -> None:
        rows = sum(request.rows for request in batch)
        self._statistics.succeeded(rows, [request.enqueued_ns for request in batch], timing)
        for request, outputs in zip(batch, split, strict=True):
            if not request.outputs.done():  # else the client cancelled while the model ran
                request.outputs.set_result(outputs)

    def _fail(self, batch: Sequence[QueuedRequest], error: Exception) -> None:
        for request in batch:
            self._statistics.failed(request.enqueued_ns, Reason.BACKEND)
            if not request.outputs.done():
                request.outputs.set_exception(error)


def _slice(outputs: Arrays, start: int, rows: int, batch_rows: int) -> Outputs:
    """Return one request's rows of a batch of `batch_rows`; the arrays themselves if it has all rows."""
    return {name: array if rows == batch_rows else array[start : start + rows] for name, array in outputs.items()}


def _is_batched(outputs: Arrays, rows: int) -> bool:
    """Return whether every output has one row for each input row."""
    return all(array.ndim > 0 and len(array) == rows for array in outputs.values())


def _stack_inputs(inputs: Sequence[Arrays], padding: int) -> Arrays:
    """Stack requests along the batch, and pad with copies of the last row; a single unpadded request is not copied."""
    if len(inputs) == 1 and not padding:
        return inputs[0]
    padding_rows = [{name: array[-1:] for name, array in inputs[-1].items()}] * padding
    return {name: stack_rows([arrays[name] for arrays in (*inputs, *padding_rows)]) for name in inputs[0]}


def stack_rows(arrays: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """Concatenate along the first dimension as np.concatenate does, but without releasing the interpreter lock.

    numpy releases the lock for every array that it copies, and then waits until the event loop releases it. Under load
    this took two milliseconds per batch, whereas the copying takes a tenth of a millisecond.
    """
    first = arrays[0]
    if first.dtype.hasobject:
        return np.concatenate(arrays)
    data = b"".join(np.ascontiguousarray(array).data for array in arrays)
    return np.frombuffer(data, first.dtype).reshape(sum(map(len, arrays)), *first.shape[1:])
