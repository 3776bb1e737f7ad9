"""Puts requests that arrive together through a model together.

Each kind of request waits in its own line (`serve.line`); a kind is whatever may share a batch: the same plan (which
session runs it), inputs of the same shape behind the batch. A line is due when it fills a batch or when its oldest
request has waited `max_delay_us`. While the model is busy lines grow by themselves, so with a delay of 0 an idle model
answers at once and a busy one still batches.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import replace
from itertools import accumulate
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt

from serve.errors import UnavailableError
from serve.line import BatchSettings, Line, QueuePolicy, Waiting
from serve.statistics import Reason, Statistics, Timing

Array = npt.NDArray[Any]
Arrays = Mapping[str, Array]
PlanT = TypeVar("PlanT", bound=Hashable)
Kind = tuple[PlanT, Hashable]


class Batcher(Generic[PlanT]):
    """Lines before one model. `run(inputs, plan)` is called in `executor`, `instances` batches at a time."""

    def __init__(
        self,
        run: Callable[[Arrays, PlanT], Arrays],
        settings: BatchSettings,
        executor: Executor,
        statistics: Statistics,
    ) -> None:
        self._run, self._settings, self._executor, self._statistics = run, settings, executor, statistics
        self._lines: dict[Kind[PlanT], Line] = {}
        self._open: set[asyncio.Future[dict[str, Array]]] = set()
        self._arrival = asyncio.Event()
        self._workers = [asyncio.create_task(self._work()) for _ in range(settings.instances)]

    async def submit(
        self, inputs: Arrays, rows: int, plan: PlanT, *, priority: int = 0, timeout_us: int = 0, alone: bool = False
    ) -> dict[str, Array]:
        """Return what `run` gives for `inputs`, whose first dimension is `rows`.

        With `alone` the request shares its batch with no other: for outputs whose first dimension is not the batch.

        Raises:
            UnavailableError: too many wait already, or its turn did not come in time.
        """
        level = self._settings.level(priority)
        policy = self._settings.policy_at(level)
        waiting = Waiting(inputs, rows, level, asyncio.get_running_loop().create_future(), alone=alone)
        self._check_room(waiting, policy)
        shapes = tuple(sorted((name, array.dtype.str, array.shape[1:]) for name, array in inputs.items()))
        line = self._lines.setdefault((plan, waiting if alone else shapes), Line())
        line.join(waiting)
        self._limit_wait(line, waiting, policy, policy.timeout_for(timeout_us))
        self._open.add(waiting.answer)
        waiting.answer.add_done_callback(self._open.discard)
        self._arrival.set()
        return await waiting.answer

    @property
    def waiting(self) -> int:
        """How many requests stand in line."""
        return sum(map(len, self._lines.values()))

    def _check_room(self, waiting: Waiting, policy: QueuePolicy) -> None:
        if not policy.max_waiting:
            return
        if sum(line.waiting_at(waiting.level) for line in self._lines.values()) >= policy.max_waiting:
            self._statistics.failed(waiting.since_ns, Reason.REJECTED)
            raise UnavailableError(f"{policy.max_waiting} requests wait for this model already, which is its limit.")

    def _limit_wait(self, line: Line, waiting: Waiting, policy: QueuePolicy, timeout_us: int) -> None:
        """See to it that a request is answered in time, also while the model is busy."""
        if not timeout_us:
            return

        def late() -> None:
            if waiting.answer.done() or not line.leave(waiting):
                return
            if policy.linger:
                waiting.late = True
                line.join(waiting)
                return
            self._statistics.failed(waiting.since_ns, Reason.REJECTED)
            error = UnavailableError(f"the request's turn did not come within {timeout_us} microseconds.")
            waiting.answer.set_exception(error)

        timer = asyncio.get_running_loop().call_later(timeout_us / 1e6, late)
        waiting.answer.add_done_callback(lambda _: timer.cancel())

    async def close(self) -> None:
        """Answer what is in line, then stop."""
        while self._open:
            await asyncio.wait(set(self._open))
        for worker in self._workers:
            worker.cancel()
        await asyncio.gather(*self._workers, return_exceptions=True)

    async def _work(self) -> None:
        while True:
            self._arrival.clear()
            self._forget_cancelled()
            kind = self._due()
            if kind is None:
                await self._arrive()
                continue
            await self._answer(kind[0], self._take(kind))

    def _forget_cancelled(self) -> None:
        """Drop requests whose client no longer waits, before anything is computed for them."""
        for kind, line in list(self._lines.items()):
            for each in line.drop_answered():
                self._statistics.failed(each.since_ns, Reason.CANCELED)
            if not line:
                del self._lines[kind]

    def _due(self) -> Kind[PlanT] | None:
        """Return the line to serve next: of those that are due, the one whose first request goes before the others."""
        now_ns = time.monotonic_ns()
        due = [kind for kind, line in self._lines.items() if line.ready(self._settings) or self._due_ns(line) <= now_ns]
        return min(due, key=lambda kind: self._lines[kind].first.place, default=None)

    def _due_ns(self, line: Line) -> int:
        return line.oldest_ns + self._settings.max_delay_us * 1000

    async def _arrive(self) -> None:
        """Sleep until a request arrives or the next line is due."""
        next_ns = min(map(self._due_ns, self._lines.values()), default=None)
        timeout_s = None if next_ns is None else max(0, next_ns - time.monotonic_ns()) / 1e9
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._arrival.wait(), timeout_s)

    def _take(self, kind: Kind[PlanT]) -> list[Waiting]:
        batch = self._lines[kind].take(self._settings)
        if not self._lines[kind]:
            del self._lines[kind]
        return batch

    async def _answer(self, plan: PlanT, batch: Sequence[Waiting]) -> None:
        try:
            await self._run_and_share(plan, batch)
        except Exception as error:  # noqa: BLE001  whatever the model raised is the clients' answer
            self._fail(batch, error)

    async def _run_and_share(self, plan: PlanT, batch: Sequence[Waiting]) -> None:
        taken_ns = time.monotonic_ns()
        rows = sum(each.rows for each in batch)
        full = rows if batch[0].alone else self._settings.bucket(rows)
        outputs, infer_ns, output_ns = await self._compute([each.inputs for each in batch], plan, full - rows)
        if (len(batch) > 1 or full > rows) and not _splits(outputs, full):
            for each in batch:
                await self._answer(plan, [replace(each, alone=True)])
            return
        starts = accumulate((each.rows for each in batch[:-1]), initial=0)
        answers = [(each, _part(outputs, start, each.rows, full)) for each, start in zip(batch, starts, strict=True)]
        timing = Timing(taken_ns, infer_ns, output_ns, time.monotonic_ns())
        self._statistics.succeeded(rows, [each.since_ns for each in batch], timing)
        for each, part in answers:
            _settle(each, part)

    def _fail(self, batch: Sequence[Waiting], error: Exception) -> None:
        for each in batch:
            self._statistics.failed(each.since_ns, Reason.BACKEND)
            _settle(each, error)

    async def _compute(self, parts: Sequence[Arrays], plan: PlanT, padding: int) -> tuple[Arrays, int, int]:
        return await asyncio.get_running_loop().run_in_executor(self._executor, self._timed, parts, plan, padding)

    def _timed(self, parts: Sequence[Arrays], plan: PlanT, padding: int) -> tuple[Arrays, int, int]:
        """Run one batch, in the model's own thread; with the outputs come the times when it began and ended."""
        inputs = _joined(parts, padding)
        infer_ns = time.monotonic_ns()
        outputs = self._run(inputs, plan)
        return outputs, infer_ns, time.monotonic_ns()


def _part(outputs: Arrays, start: int, rows: int, of: int) -> dict[str, Array]:
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
    return {name: np.concatenate([part[name] for part in (*parts, *more)]) for name in parts[0]}


def _settle(waiting: Waiting, answer: dict[str, Array] | Exception) -> None:
    if waiting.answer.done():  # the client left while the model ran
        return
    if isinstance(answer, Exception):
        waiting.answer.set_exception(answer)
    else:
        waiting.answer.set_result(answer)
