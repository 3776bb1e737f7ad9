"""Decides which batch of a model runs next, when, and in which thread.

A batch is due when its queue fills it, or when its oldest request has waited `max_delay_us`. It runs in the model's
worker threads, or, if that takes next to no time, in the thread that received the requests (`take_inline`), because
handing a batch to another thread costs more than a small run. The worker threads run at most `instances` batches at a
time. Up to `ahead` full batches more may be taken, so that they are stacked while a device is busy.
"""

import threading
import time
from collections import Counter
from typing import Generic

from serve.batching.queue import BatchSettings, PlanT, QueuedRequest, RequestQueue

Batch = tuple[RequestQueue[PlanT], list[QueuedRequest]]


class Scheduler(Generic[PlanT]):
    """The queues of one model, under one lock. Each taken batch must be reported to `finish`."""

    def __init__(self, settings: BatchSettings) -> None:
        self._settings = settings
        self._waiting: dict[RequestQueue[PlanT], None] = {}  # the queues that are not empty
        self._counts: Counter[int] = Counter()  # waiting requests by level
        self._changed = threading.Condition(threading.Lock())
        self._taken, self._idle_workers = 0, 0
        self._closed = False

    def __len__(self) -> int:
        return self._counts.total()

    def add(self, queue: RequestQueue[PlanT], request: QueuedRequest) -> bool:
        """Queue a request; return False if the scheduler is closed. Nothing runs before `take_inline` or `wake`."""
        with self._changed:
            if self._closed:
                return False
            self._add(queue, request)
            return True

    def remove(self, request: QueuedRequest) -> bool:
        """Remove a request; return False if it is no longer queued."""
        with self._changed:
            return self._remove(request)

    def defer(self, request: QueuedRequest) -> bool:
        """Move a request behind all others; return False if it is no longer queued."""
        with self._changed:
            queue = request.queue
            if queue is None or not self._remove(request):
                return False
            request.expired = True
            self._add(queue, request)
            self._changed.notify()
            return True

    def count_at(self, level: int) -> int:
        """Return the number of waiting requests of a level."""
        return self._counts[level]

    def take_inline(self) -> Batch[PlanT] | None:
        """Remove and return a batch that the calling thread runs itself; otherwise wake a worker if there is work."""
        with self._changed:
            queue = self._due_queue()
            if queue is not None and self._is_cheap(queue):  # even if the instances are busy: else it would never be
                return self._take(queue)
            if self._waiting and self._idle_workers:
                self._changed.notify()
            return None

    def take(self) -> Batch[PlanT] | None:
        """Wait until a batch is due, then remove and return it; return None once the scheduler is closed and empty."""
        with self._changed:
            while True:
                queue = self._due_queue()
                if queue is not None and self._may_take(queue):
                    return self._take(queue)
                if self._closed and not self._waiting:
                    return None
                self._idle_workers += 1
                self._changed.wait(self._seconds_until_due() if queue is None else None)
                self._idle_workers -= 1

    def finish(self) -> None:
        """Note that a taken batch has run."""
        with self._changed:
            self._taken -= 1
            if self._closed:
                self._changed.notify_all()
            elif self._waiting and self._idle_workers:
                self._changed.notify()

    def close(self) -> None:
        """Accept no further requests, and let `take` return None once all queued ones are taken."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def wait_until_idle(self, timeout_s: float | None) -> bool:
        """After `close`, wait until all batches have run; return False if they have not within `timeout_s`."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._waiting and not self._taken, timeout_s)

    def _add(self, queue: RequestQueue[PlanT], request: QueuedRequest) -> None:
        queue.add(request)
        self._waiting[queue] = None
        self._counts[request.level] += 1

    def _remove(self, request: QueuedRequest) -> bool:
        queue = request.queue
        if queue is None:
            return False
        queue.remove(request)
        self._forget(queue, request)
        return True

    def _forget(self, queue: RequestQueue[PlanT], *requests: QueuedRequest) -> None:
        for request in requests:
            self._counts[request.level] -= 1
        if not queue:
            del self._waiting[queue]

    def _take(self, queue: RequestQueue[PlanT]) -> Batch[PlanT]:
        batch = queue.take(self._settings)
        self._forget(queue, *batch)
        self._taken += 1
        if self._waiting and self._idle_workers:
            self._changed.notify()  # another thread may take the remaining requests
        return queue, batch

    def _is_cheap(self, queue: RequestQueue[PlanT]) -> bool:
        cost_ns = queue.cost_ns(self._settings)
        return cost_ns is not None and cost_ns <= self._settings.inline_limit_ns

    def _may_take(self, queue: RequestQueue[PlanT]) -> bool:
        free = self._settings.instances - self._taken
        return free > 0 or (free + self._settings.ahead > 0 and queue.fills_batch(self._settings))

    def _due_queue(self) -> RequestQueue[PlanT] | None:
        """Return the next queue: of those that are due, the one whose first request sorts first."""
        if len(self._waiting) == 1 and not self._settings.max_delay_us:
            return next(iter(self._waiting))
        now_ns = time.monotonic_ns()
        due = [q for q in self._waiting if q.fills_batch(self._settings) or self._due_ns(q) <= now_ns]
        return min(due, key=lambda queue: queue.first.sort_key, default=None)

    def _due_ns(self, queue: RequestQueue[PlanT]) -> int:
        return queue.oldest_ns + self._settings.max_delay_us * 1000

    def _seconds_until_due(self) -> float | None:
        next_ns = min(map(self._due_ns, self._waiting), default=None)
        return None if next_ns is None else max(0, next_ns - time.monotonic_ns()) / 1e9
