"""The lines before one model, as its threads see them: each takes the next batch by itself, as soon as it is free.

A thread that waited for the event loop to hand it a batch would idle while the loop reads and writes messages. So the
loop only lets requests join and leave; what is taken, and when, is decided here, under one lock.
"""

import threading
import time
from collections.abc import Hashable
from typing import Generic, TypeVar

from serve.batching.queue import BatchSettings, Line, QueuedRequest

PlanT = TypeVar("PlanT", bound=Hashable)
Kind = tuple[PlanT, Hashable]


class Scheduler(Generic[PlanT]):
    """A line for each kind of request: who may share a batch. A kind begins with its plan."""

    def __init__(self, settings: BatchSettings) -> None:
        self._settings = settings
        self._lines: dict[Kind[PlanT], Line] = {}
        self._changed = threading.Condition()
        self._closed = False

    def join(self, kind: Kind[PlanT], waiting: QueuedRequest) -> None:
        """Let a request stand where it belongs."""
        with self._changed:
            self._lines.setdefault(kind, Line()).join(waiting)
            self._changed.notify()

    def leave(self, kind: Kind[PlanT], waiting: QueuedRequest) -> bool:
        """Take a request out; False where it is not in line any more."""
        with self._changed:
            line = self._lines.get(kind)
            left = line is not None and line.leave(waiting)
            self._forget_empty(kind)
            return left

    def __len__(self) -> int:
        with self._changed:
            return sum(map(len, self._lines.values()))

    def waiting_at(self, level: int) -> int:
        """How many of a level wait."""
        with self._changed:
            return sum(line.waiting_at(level) for line in self._lines.values())

    def take(self) -> tuple[PlanT, list[QueuedRequest]] | None:
        """Wait for a batch that is due, and take it; None once the lines are closed and empty."""
        with self._changed:
            while True:
                self._drop_answered()
                kind = self._due()
                if kind is not None:
                    return kind[0], self._taken(kind)
                if self._closed and not self._lines:
                    return None
                self._changed.wait(self._until_due_s())

    def close(self) -> None:
        """Let `take` end when all that wait are taken."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _drop_answered(self) -> None:
        for kind, line in list(self._lines.items()):
            line.drop_answered()
            self._forget_empty(kind)

    def _due(self) -> Kind[PlanT] | None:
        """Return the line to serve next: of those that are due, the one whose first request goes before the others."""
        now_ns = time.monotonic_ns()
        due = [kind for kind, line in self._lines.items() if line.ready(self._settings) or self._due_ns(line) <= now_ns]
        return min(due, key=lambda kind: self._lines[kind].first.place, default=None)

    def _due_ns(self, line: Line) -> int:
        return line.oldest_ns + self._settings.max_delay_us * 1000

    def _until_due_s(self) -> float | None:
        next_ns = min(map(self._due_ns, self._lines.values()), default=None)
        return None if next_ns is None else max(0, next_ns - time.monotonic_ns()) / 1e9

    def _taken(self, kind: Kind[PlanT]) -> list[QueuedRequest]:
        batch = self._lines[kind].take(self._settings)
        if self._lines[kind]:
            self._changed.notify()  # another thread may be free for the rest
        self._forget_empty(kind)
        return batch

    def _forget_empty(self, kind: Kind[PlanT]) -> None:
        if kind in self._lines and not self._lines[kind]:
            del self._lines[kind]
