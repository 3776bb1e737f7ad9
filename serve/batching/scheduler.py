"""Queues of one model, shared by its worker threads: an idle thread takes the next batch itself.

If the event loop passed batches to the threads, they would wait while the loop reads and writes messages. So the loop
only adds and removes requests; the scheduler decides which batch runs next, and when, under one lock.
"""

import threading
import time
from collections.abc import Hashable
from typing import Generic, TypeVar

from serve.batching.queue import BatchSettings, QueuedRequest, RequestQueue

PlanT = TypeVar("PlanT", bound=Hashable)
BatchKey = tuple[PlanT, Hashable]


class Scheduler(Generic[PlanT]):
    """One queue per batch key: requests with the same key may share a batch. The first element of a key is the plan."""

    def __init__(self, settings: BatchSettings) -> None:
        self._settings = settings
        self._queues: dict[BatchKey[PlanT], RequestQueue] = {}
        self._changed = threading.Condition()
        self._closed = False

    def add(self, key: BatchKey[PlanT], request: QueuedRequest) -> None:
        """Queue a request."""
        with self._changed:
            self._queues.setdefault(key, RequestQueue()).add(request)
            self._changed.notify()

    def remove(self, key: BatchKey[PlanT], request: QueuedRequest) -> bool:
        """Remove a request; return False if it is no longer queued."""
        with self._changed:
            queue = self._queues.get(key)
            is_removed = queue is not None and queue.remove(request)
            self._delete_empty(key)
            return is_removed

    def __len__(self) -> int:
        with self._changed:
            return sum(map(len, self._queues.values()))

    def count_at(self, level: int) -> int:
        """Return the number of waiting requests of a level."""
        with self._changed:
            return sum(queue.count_at(level) for queue in self._queues.values())

    def take(self) -> tuple[PlanT, list[QueuedRequest]] | None:
        """Wait until a batch is due, then remove and return it; return None once the scheduler is closed and empty."""
        with self._changed:
            while True:
                self._drop_done()
                key = self._due_key()
                if key is not None:
                    return key[0], self._take_batch(key)
                if self._closed and not self._queues:
                    return None
                self._changed.wait(self._seconds_until_due())

    def close(self) -> None:
        """Let `take` return None once all queued requests are taken."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _drop_done(self) -> None:
        for key, queue in list(self._queues.items()):
            queue.drop_done()
            self._delete_empty(key)

    def _due_key(self) -> BatchKey[PlanT] | None:
        """Return the key of the next queue: of those that are due, the one whose first request sorts first."""
        now_ns = time.monotonic_ns()
        due = [
            key
            for key, queue in self._queues.items()
            if queue.fills_batch(self._settings) or self._due_ns(queue) <= now_ns
        ]
        return min(due, key=lambda key: self._queues[key].first.sort_key, default=None)

    def _due_ns(self, queue: RequestQueue) -> int:
        return queue.oldest_ns + self._settings.max_delay_us * 1000

    def _seconds_until_due(self) -> float | None:
        next_ns = min(map(self._due_ns, self._queues.values()), default=None)
        return None if next_ns is None else max(0, next_ns - time.monotonic_ns()) / 1e9

    def _take_batch(self, key: BatchKey[PlanT]) -> list[QueuedRequest]:
        batch = self._queues[key].take(self._settings)
        if self._queues[key]:
            self._changed.notify()  # another thread may take the remaining requests
        self._delete_empty(key)
        return batch

    def _delete_empty(self, key: BatchKey[PlanT]) -> None:
        if key in self._queues and not self._queues[key]:
            del self._queues[key]
