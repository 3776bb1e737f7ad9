"""Puts requests that arrive together through a model together.

Each kind of request waits in its own line, oldest first; a kind is whatever may share a batch: the same plan (which
session runs it), inputs of the same shape behind the batch. A line is due when it fills a batch or when its oldest
request has waited `max_delay_us`. While the model is busy lines grow by themselves, so with a delay of 0 an idle model
answers at once and a busy one still batches.
"""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable, Hashable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt

from serve.statistics import Reason, Statistics, Timing

Array = npt.NDArray[Any]
Arrays = Mapping[str, Array]
PlanT = TypeVar("PlanT", bound=Hashable)
Kind = tuple[PlanT, Hashable]


@dataclass(frozen=True)
class BatchSettings:
    """`max_rows` is the largest batch (1 or more); `max_delay_us` is how long a request may wait for others."""

    max_rows: int
    max_delay_us: int = 0


@dataclass(eq=False)
class _Waiting:
    """A request in line. Its arrays have the batch first."""

    inputs: Arrays
    rows: int
    answer: "asyncio.Future[dict[str, Array]]"
    since_ns: int = field(default_factory=time.monotonic_ns)


class Batcher(Generic[PlanT]):
    """Lines before one model. `run(inputs, plan)` is called in `executor`, one batch at a time."""

    def __init__(
        self,
        run: Callable[[Arrays, PlanT], Arrays],
        settings: BatchSettings,
        executor: Executor,
        statistics: Statistics,
    ) -> None:
        self._run, self._settings, self._executor, self._statistics = run, settings, executor, statistics
        self._lines: dict[Kind[PlanT], deque[_Waiting]] = {}
        self._open: set[asyncio.Future[dict[str, Array]]] = set()
        self._arrival = asyncio.Event()
        self._worker = asyncio.create_task(self._work())

    async def submit(self, inputs: Arrays, rows: int, plan: PlanT, *, alone: bool = False) -> dict[str, Array]:
        """Return what `run` gives for `inputs`, whose first dimension is `rows`.

        With `alone` the request shares its batch with no other: for outputs whose first dimension is not the batch.
        """
        waiting = _Waiting(inputs, rows, asyncio.get_running_loop().create_future())
        shapes = tuple(sorted((name, array.dtype.str, array.shape[1:]) for name, array in inputs.items()))
        self._lines.setdefault((plan, waiting if alone else shapes), deque()).append(waiting)
        self._open.add(waiting.answer)
        waiting.answer.add_done_callback(self._open.discard)
        self._arrival.set()
        return await waiting.answer

    async def close(self) -> None:
        """Answer what is in line, then stop."""
        while self._open:
            await asyncio.wait(set(self._open))
        self._worker.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._worker

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
            kept = deque(each for each in line if not each.answer.done())
            for each in line:
                if each.answer.done():
                    self._statistics.failed(each.since_ns, Reason.CANCELED)
            self._lines[kind] = kept
            if not kept:
                del self._lines[kind]

    def _due(self) -> Kind[PlanT] | None:
        """Return the line to serve next: of those that are due, the one whose first request is oldest."""
        now_ns = time.monotonic_ns()
        due = [kind for kind, line in self._lines.items() if self._full(line) or self._due_ns(line) <= now_ns]
        return min(due, key=lambda kind: self._lines[kind][0].since_ns, default=None)

    def _full(self, line: deque[_Waiting]) -> bool:
        return sum(each.rows for each in line) >= self._settings.max_rows

    def _due_ns(self, line: deque[_Waiting]) -> int:
        return line[0].since_ns + self._settings.max_delay_us * 1000

    async def _arrive(self) -> None:
        """Sleep until a request arrives or the next line is due."""
        next_ns = min(map(self._due_ns, self._lines.values()), default=None)
        timeout_s = None if next_ns is None else max(0, next_ns - time.monotonic_ns()) / 1e9
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._arrival.wait(), timeout_s)

    def _take(self, kind: Kind[PlanT]) -> list[_Waiting]:
        """Take the head of a line, as many requests as fit, in order."""
        line, batch, rows = self._lines[kind], list[_Waiting](), 0
        while line and (not batch or rows + line[0].rows <= self._settings.max_rows):
            batch.append(line.popleft())
            rows += batch[-1].rows
        if not line:
            del self._lines[kind]
        return batch

    async def _answer(self, plan: PlanT, batch: Sequence[_Waiting]) -> None:
        taken_ns = time.monotonic_ns()
        rows = sum(each.rows for each in batch)
        try:
            outputs, infer_ns, output_ns = await self._compute([each.inputs for each in batch], plan)
        except Exception as error:  # noqa: BLE001  whatever the model raised is the clients' answer
            self._fail(batch, error)
            return
        if len(batch) > 1 and not _splits(outputs, rows):
            for each in batch:
                await self._answer(plan, [each])
            return
        starts = accumulate((each.rows for each in batch[:-1]), initial=0)
        answers = [(each, _part(outputs, start, each.rows, rows)) for each, start in zip(batch, starts, strict=True)]
        timing = Timing(taken_ns, infer_ns, output_ns, time.monotonic_ns())
        self._statistics.succeeded(rows, [each.since_ns for each in batch], timing)
        for each, part in answers:
            _settle(each, part)

    def _fail(self, batch: Sequence[_Waiting], error: Exception) -> None:
        for each in batch:
            self._statistics.failed(each.since_ns, Reason.BACKEND)
            _settle(each, error)

    async def _compute(self, parts: Sequence[Arrays], plan: PlanT) -> tuple[Arrays, int, int]:
        return await asyncio.get_running_loop().run_in_executor(self._executor, self._timed, parts, plan)

    def _timed(self, parts: Sequence[Arrays], plan: PlanT) -> tuple[Arrays, int, int]:
        """Run one batch, in the model's own thread; with the outputs come the times when it began and ended."""
        inputs = _joined(parts)
        infer_ns = time.monotonic_ns()
        outputs = self._run(inputs, plan)
        return outputs, infer_ns, time.monotonic_ns()


def _part(outputs: Arrays, start: int, rows: int, of: int) -> dict[str, Array]:
    """One request's share of a batch of `of` rows; a lone request has all there is."""
    return {name: array if rows == of else array[start : start + rows] for name, array in outputs.items()}


def _splits(outputs: Arrays, rows: int) -> bool:
    """Whether every output has one row for each row that went in."""
    return all(array.ndim > 0 and len(array) == rows for array in outputs.values())


def _joined(parts: Sequence[Arrays]) -> Arrays:
    """Stack along the batch; a lone request's arrays are used as they are."""
    if len(parts) == 1:
        return parts[0]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _settle(waiting: _Waiting, answer: dict[str, Array] | Exception) -> None:
    if waiting.answer.done():  # the client left while the model ran
        return
    if isinstance(answer, Exception):
        waiting.answer.set_exception(answer)
    else:
        waiting.answer.set_result(answer)
