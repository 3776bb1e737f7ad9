"""Puts requests that arrive together through a model together.

Each kind of request waits in its own line (`batching.scheduler`); a kind is whatever may share a batch: the same
plan (which session runs it), inputs of the same shape behind the batch. A line is due when it fills a batch or when
its oldest request has waited `max_delay_us`. While the model is busy lines grow by themselves, so with a
delay of 0 an idle model answers at once and a busy one still batches.

The event loop takes requests in and gives answers out; the model's own threads take batches, run them and share the
outputs out, and meet the loop only at the lines and when a batch is done.
"""

import asyncio
import contextlib
import functools
import threading
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import replace
from itertools import accumulate
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt

from serve.batching.queue import BatchSettings, QueuedRequest, QueuePolicy
from serve.batching.scheduler import Kind, Scheduler
from serve.batching.statistics import Reason, Statistics, Timing
from serve.errors import UnavailableError

Array = npt.NDArray[Any]
Arrays = Mapping[str, Array]
Answer = dict[str, Array]
PlanT = TypeVar("PlanT", bound=Hashable)


class Batcher(Generic[PlanT]):
    """Lines before one model. `run(inputs, plan)` is called in threads of the batcher's own, one for each instance."""

    def __init__(
        self, run: Callable[[Arrays, PlanT], Arrays], settings: BatchSettings, statistics: Statistics, name: str = ""
    ) -> None:
        self._run, self._settings, self._statistics = run, settings, statistics
        self._lines = Scheduler[PlanT](settings)
        self._open: set[asyncio.Future[Answer]] = set()
        self._loop = asyncio.get_running_loop()
        names = [f"{name}#{index}" for index in range(settings.instances)]
        self._threads = [threading.Thread(target=self._work, name=each, daemon=True) for each in names]
        self._working, self._ended = len(self._threads), asyncio.Event()
        for thread in self._threads:
            thread.start()

    async def submit(
        self, inputs: Arrays, rows: int, plan: PlanT, *, priority: int = 0, timeout_us: int = 0, alone: bool = False
    ) -> Answer:
        """Return what `run` gives for `inputs`, whose first dimension is `rows`.

        With `alone` the request shares its batch with no other: for outputs whose first dimension is not the batch.

        Raises:
            UnavailableError: too many wait already, or its turn did not come in time.
        """
        level = self._settings.level(priority)
        policy = self._settings.policy_at(level)
        waiting = QueuedRequest(inputs, rows, level, self._loop.create_future(), alone=alone)
        self._check_room(waiting, policy)
        shapes = tuple(sorted((name, array.dtype.str, array.shape[1:]) for name, array in inputs.items()))
        kind = (plan, waiting if alone else shapes)
        self._open.add(waiting.answer)
        waiting.answer.add_done_callback(functools.partial(self._close_request, kind, waiting))
        self._lines.join(kind, waiting)
        self._limit_wait(kind, waiting, policy, policy.timeout_for(timeout_us))
        return await waiting.answer

    @property
    def waiting(self) -> int:
        """How many requests stand in line."""
        return len(self._lines)

    async def close(self) -> None:
        """Answer what is in line, then stop."""
        while self._open:
            await asyncio.wait(set(self._open))
        self._lines.close()
        await self._ended.wait()

    def _check_room(self, waiting: QueuedRequest, policy: QueuePolicy) -> None:
        if policy.max_waiting and self._lines.waiting_at(waiting.level) >= policy.max_waiting:
            self._statistics.failed(waiting.since_ns, Reason.REJECTED)
            raise UnavailableError(f"{policy.max_waiting} requests wait for this model already, which is its limit.")

    def _close_request(self, kind: Kind[PlanT], waiting: QueuedRequest, answer: "asyncio.Future[Answer]") -> None:
        """Forget a request that is answered; one whose client left is not computed any more."""
        self._open.discard(answer)
        if not answer.cancelled():
            return
        self._lines.leave(kind, waiting)  # which waits for a thread that is just taking it
        if not waiting.taken:
            self._statistics.failed(waiting.since_ns, Reason.CANCELED)

    def _limit_wait(self, kind: Kind[PlanT], waiting: QueuedRequest, policy: QueuePolicy, timeout_us: int) -> None:
        """See to it that a request is answered in time, also while the model is busy."""
        if not timeout_us:
            return

        def late() -> None:
            if waiting.answer.done() or not self._lines.leave(kind, waiting):
                return
            if policy.linger:
                waiting.late = True
                self._lines.join(kind, waiting)
                return
            self._statistics.failed(waiting.since_ns, Reason.REJECTED)
            error = UnavailableError(f"the request's turn did not come within {timeout_us} microseconds.")
            waiting.answer.set_exception(error)

        timer = self._loop.call_later(timeout_us / 1e6, late)
        waiting.answer.add_done_callback(lambda _: timer.cancel())

    def _work(self) -> None:
        """Run batch after batch, in one of the model's own threads."""
        while (taken := self._lines.take()) is not None:
            self._answer(*taken)
        self._tell(self._end_one)

    def _end_one(self) -> None:
        self._working -= 1
        if not self._working:
            self._ended.set()

    def _tell(self, what: Callable[..., None], *arguments: Any) -> None:
        """Let the loop do `what`, unless it has ended without waiting for this thread."""
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(what, *arguments)

    def _answer(self, plan: PlanT, batch: Sequence[QueuedRequest]) -> None:
        try:
            self._run_and_share(plan, batch)
        except Exception as error:  # noqa: BLE001  whatever the model raised is the clients' answer
            self._tell(self._fail, batch, error)

    def _run_and_share(self, plan: PlanT, batch: Sequence[QueuedRequest]) -> None:
        taken_ns = time.monotonic_ns()
        rows = sum(each.rows for each in batch)
        full = rows if batch[0].alone else self._settings.bucket(rows)
        inputs = _joined([each.inputs for each in batch], full - rows)
        infer_ns = time.monotonic_ns()
        outputs = self._run(inputs, plan)
        output_ns = time.monotonic_ns()
        if (len(batch) > 1 or full > rows) and not _splits(outputs, full):
            for each in batch:
                self._answer(plan, [replace(each, alone=True)])
            return
        starts = accumulate((each.rows for each in batch[:-1]), initial=0)
        parts = [_part(outputs, start, each.rows, full) for each, start in zip(batch, starts, strict=True)]
        timing = Timing(taken_ns, infer_ns, output_ns, time.monotonic_ns())
        self._tell(self._succeed, batch, parts, timing)

    def _succeed(self, batch: Sequence[QueuedRequest], parts: Sequence[Answer], timing: Timing) -> None:
        rows = sum(each.rows for each in batch)
        self._statistics.succeeded(rows, [each.since_ns for each in batch], timing)
        for each, part in zip(batch, parts, strict=True):
            if not each.answer.done():  # else the client left while the model ran
                each.answer.set_result(part)

    def _fail(self, batch: Sequence[QueuedRequest], error: Exception) -> None:
        for each in batch:
            self._statistics.failed(each.since_ns, Reason.BACKEND)
            if not each.answer.done():
                each.answer.set_exception(error)


def _part(outputs: Arrays, start: int, rows: int, of: int) -> Answer:
    """One request's share of a batch of `of` rows; a lone request has all there is."""
    return {name: array if rows == of else array[start : start + rows] for name, array in outputs.items()}


def _splits(outputs: Arrays, rows: int) -> bool:
    """Whether every output has one row for each row that went in."""
    return all(array.ndim > 0 and len(array) == rows for array in outputs.values())


def _joined(parts: Sequence[Arrays], padding: int) -> Arrays:
    """Stack along the batch, with `padding` more rows like the last; a lone request's arrays are used as they are."""
    if len(parts) == 1 and not padding:
        return parts[0]
    more = [{name: array[-1:] for name, array in parts[-1].items()}] * padding
    return {name: stacked([part[name] for part in (*parts, *more)]) for name in parts[0]}


def stacked(arrays: Sequence[Array]) -> Array:
    """What np.concatenate gives, but in one breath.

    numpy lets go of the interpreter for each array that it copies, and each time has to wait until the event loop does
    so too: under load that took two milliseconds a batch, where the copying takes a tenth of one.
    """
    first = arrays[0]
    if first.dtype.hasobject:
        return np.concatenate(arrays)
    data = b"".join(np.ascontiguousarray(each).data for each in arrays)
    return np.frombuffer(data, first.dtype).reshape(sum(map(len, arrays)), *first.shape[1:])
