"""Runs requests that arrive together as one batch.

Requests that may share a batch wait in one queue (`batching.queue`): they have the same plan (the session that runs
them), and inputs of the same shape except for the batch. The scheduler says which batch runs next, and whether in the
thread that received the requests or in a worker thread. The thread that runs a batch does everything that is left:
stack the inputs, run, split the outputs, and deliver each part to its request's reply.
"""

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Generic
from weakref import WeakValueDictionary

import numpy as np
from numpy.typing import NDArray

from serve.batching.queue import Arrays, BatchSettings, PlanT, QueuedRequest, QueuePolicy, RequestQueue
from serve.batching.scheduler import Scheduler
from serve.batching.statistics import Reason, Statistics, Timing
from serve.batching.timeouts import Timeouts
from serve.errors import UnavailableError

Shapes = tuple[tuple[str, str, tuple[int, ...]], ...]


class Batcher(Generic[PlanT]):
    """Queues and worker threads of one model, which call `run(inputs, plan)`."""

    def __init__(
        self, run: Callable[[Arrays, PlanT], Arrays], settings: BatchSettings, statistics: Statistics, name: str = ""
    ) -> None:
        self._run, self._settings, self._statistics = run, settings, statistics
        self._scheduler = Scheduler[PlanT](settings)
        self._timeouts = Timeouts(f"{name} timeouts")
        self._queues: WeakValueDictionary[tuple[PlanT, Shapes], RequestQueue[PlanT]] = WeakValueDictionary()
        self._device = threading.Semaphore(settings.instances) if settings.ahead else nullcontext()
        names = [f"{name}#{index}" for index in range(settings.instances + settings.ahead)]
        self._threads = [threading.Thread(target=self._work, name=name, daemon=True) for name in names]
        for thread in self._threads:
            thread.start()

    def queue(self, inputs: Arrays, plan: PlanT, *, alone: bool = False) -> RequestQueue[PlanT]:
        """Return the queue of requests with such inputs; with `alone`, a queue in which they share no batch.

        A request must run alone if the first dimension of an input or output is not the batch.
        """
        if alone:
            return RequestQueue(plan, is_shared=False)
        shapes = tuple(sorted((name, array.dtype.str, array.shape[1:]) for name, array in inputs.items()))
        queue = self._queues.get((plan, shapes))
        return queue if queue is not None else self._queues.setdefault((plan, shapes), RequestQueue(plan))

    def add(
        self, queue: RequestQueue[PlanT], request: QueuedRequest, *, priority: int = 0, timeout_us: int = 0
    ) -> bool:
        """Queue a request, which runs after the next call of `run_due`; return False if the batcher is closed.

        Raises:
            UnavailableError: The queue is full.
        """
        level = request.level = self._settings.level(priority)
        policy = self._settings.policy_at(level)
        if policy.max_queue_size and self._scheduler.count_at(level) >= policy.max_queue_size:
            self._statistics.failed(request.enqueued_ns, Reason.REJECTED)
            raise UnavailableError(f"the model's queue is full: {policy.max_queue_size} requests are waiting.")
        if not self._scheduler.add(queue, request):
            return False
        limit_us = policy.timeout_for(timeout_us)
        if limit_us:
            self._timeouts.add(limit_us, lambda: self._expire(request, policy, limit_us))
        return True

    def run_due(self) -> None:
        """Run the batches that are due: cheap ones in this thread, the others in the worker threads."""
        while (batch := self._scheduler.take_inline()) is not None:
            self._run_batch(*batch)

    def cancel(self, request: QueuedRequest) -> None:
        """Drop a request whose client is gone; one that has left the queue is computed nevertheless."""
        if self._scheduler.remove(request):
            self._statistics.failed(request.enqueued_ns, Reason.CANCELED)

    @property
    def queue_length(self) -> int:
        """Number of queued requests."""
        return len(self._scheduler)

    def close(self, timeout_s: float | None = None) -> bool:
        """Finish all queued requests, then end the threads; return False if that takes longer than `timeout_s`."""
        self._scheduler.close()
        is_idle = self._scheduler.wait_until_idle(timeout_s)
        self._timeouts.close()
        for thread in self._threads if is_idle else ():
            thread.join()
        return is_idle

    def _expire(self, request: QueuedRequest, policy: QueuePolicy, timeout_us: int) -> None:
        """Reject or defer a request that is still queued after `timeout_us`, also while the model is busy."""
        if policy.defer_on_timeout:
            self._scheduler.defer(request)
        elif self._scheduler.remove(request):
            self._statistics.failed(request.enqueued_ns, Reason.REJECTED)
            request.reply.fail(
                UnavailableError(f"the request did not leave the queue within {timeout_us} microseconds.")
            )

    def _work(self) -> None:
        """Run batches until the scheduler is closed, in one of the model's threads."""
        while self._run_next():
            pass

    def _run_next(self) -> bool:
        """Wait for a batch and run it; return False once the scheduler is closed. Keeps no batch while it waits."""
        batch = self._scheduler.take()
        if batch is not None:
            self._run_batch(*batch)
        return batch is not None

    def _run_batch(self, queue: RequestQueue[PlanT], batch: Sequence[QueuedRequest]) -> None:
        """Run a batch that the scheduler gave out, and deliver its results."""
        try:
            result = self._compute(queue, batch)
        except Exception as error:  # noqa: BLE001  any error of the model is the result of its requests
            self._fail(batch, error)
            return
        finally:
            self._scheduler.finish()  # before the delivery, which the next batch need not wait for
        self._deliver(queue, batch, result)

    def _compute(self, queue: RequestQueue[PlanT], batch: Sequence[QueuedRequest]) -> "_Result":
        taken_ns = time.monotonic_ns()
        rows = sum(request.rows for request in batch)
        padded_rows = self._settings.padded_rows(rows) if queue.is_shared else rows
        inputs = _stack_inputs([request.inputs for request in batch], padded_rows - rows)
        with self._device:
            infer_ns, cpu_ns = time.monotonic_ns(), time.thread_time_ns()
            outputs = self._run(inputs, queue.plan)
            output_ns = time.monotonic_ns()
        queue.measured(padded_rows, time.thread_time_ns() - cpu_ns)
        return _Result(outputs, rows, padded_rows, taken_ns, infer_ns, output_ns)

    def _deliver(self, queue: RequestQueue[PlanT], batch: Sequence[QueuedRequest], result: "_Result") -> None:
        if not result.is_divisible(len(batch)):
            self._run_one_by_one(queue, batch)
            return
        parts = result.parts([request.rows for request in batch])
        timing = Timing(result.taken_ns, result.infer_ns, result.output_ns, time.monotonic_ns())
        self._statistics.succeeded(result.rows, [request.enqueued_ns for request in batch], timing)
        for request, part in zip(batch, parts, strict=True):
            request.reply.succeed(part)

    def _run_one_by_one(self, queue: RequestQueue[PlanT], batch: Sequence[QueuedRequest]) -> None:
        """Run requests whose outputs cannot be split, each as a batch of its own."""
        alone = RequestQueue(queue.plan, is_shared=False)
        for request in batch:
            try:
                result = self._compute(alone, [request])
            except Exception as error:  # noqa: BLE001  as above
                self._fail([request], error)
            else:
                self._deliver(alone, [request], result)

    def _fail(self, batch: Sequence[QueuedRequest], error: Exception) -> None:
        for request in batch:
            self._statistics.failed(request.enqueued_ns, Reason.BACKEND)
            request.reply.fail(error)


@dataclass(frozen=True, slots=True)
class _Result:
    """Outputs of one run, of `padded_rows` rows of which the first `rows` are the batch's, and its times."""

    outputs: Arrays
    rows: int
    padded_rows: int
    taken_ns: int
    infer_ns: int
    output_ns: int

    def is_divisible(self, count: int) -> bool:
        """Return whether the outputs can be divided among `count` requests: each has one row for each input row."""
        if count == 1 and self.padded_rows == self.rows:
            return True
        return all(array.ndim > 0 and len(array) == self.padded_rows for array in self.outputs.values())

    def parts(self, rows: Sequence[int]) -> Sequence[Arrays]:
        """Return the outputs of each request; `rows` are theirs, in order."""
        if len(rows) == 1 and self.padded_rows == self.rows:
            return [self.outputs]
        starts = accumulate(rows[:-1], initial=0)
        return [
            {name: array[start : start + count] for name, array in self.outputs.items()}
            for start, count in zip(starts, rows, strict=True)
        ]


def _stack_inputs(inputs: Sequence[Arrays], padding: int) -> Arrays:
    """Stack requests along the batch, and pad with copies of the last row; a lone aligned request is not copied."""
    if len(inputs) == 1 and not padding:
        return {name: array if array.flags.aligned else array.copy() for name, array in inputs[0].items()}
    padding_rows = [{name: array[-1:] for name, array in inputs[-1].items()}] * padding
    return {name: stack_rows([arrays[name] for arrays in (*inputs, *padding_rows)]) for name in inputs[0]}


def stack_rows(arrays: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """Concatenate along the first dimension as np.concatenate does, but without releasing the interpreter lock.

    numpy releases the lock for every array that it copies, and then waits until another thread releases it. Under load
    this took two milliseconds per batch, whereas the copying takes a tenth of a millisecond.
    """
    first = arrays[0]
    if first.dtype.hasobject:
        return np.concatenate(arrays)
    data = b"".join([np.ascontiguousarray(array).data for array in arrays])
    return np.frombuffer(data, first.dtype).reshape(sum(map(len, arrays)), *first.shape[1:])
