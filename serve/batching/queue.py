"""Queue of requests that may share a batch: ordered by priority, then by arrival.

The queue policies are those of Triton's `ModelQueuePolicy`: they limit the number of waiting requests and their waiting
time.
"""

import asyncio
import time
from bisect import insort
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

Arrays = Mapping[str, NDArray[Any]]
Outputs = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class QueuePolicy:
    """Limits for the waiting requests of one priority level.

    Attributes:
        max_queue_size: Largest number of waiting requests; further ones are rejected; 0 is unlimited.
        timeout_us: Longest wait in microseconds; 0 is unlimited.
        allow_override: Whether a request may set a shorter timeout.
        defer_on_timeout: Whether an expired request is moved to the end of the queue, instead of being rejected.
    """

    max_queue_size: int = 0
    timeout_us: int = 0
    allow_override: bool = False
    defer_on_timeout: bool = False

    def timeout_for(self, requested_us: int) -> int:
        """Return the timeout in microseconds of a request that set `requested_us`; 0 is unlimited."""
        limits = [self.timeout_us, requested_us if self.allow_override else 0]
        return min((limit for limit in limits if limit), default=0)


@dataclass(frozen=True)
class BatchSettings:
    """Batching of the requests for one model.

    Attributes:
        max_rows: Largest batch in rows, 1 or more.
        max_delay_us: Longest wait for further requests of a batch in microseconds; 0 does not wait.
        preferred: Batch sizes in rows that run without this delay.
        levels: Number of priority levels; level 1 runs first, 0 disables priorities.
        default_level: Level of a request without a valid priority.
        policy: Queue policy of the levels that `policies` does not list.
        policies: Queue policies by level.
        instances: Number of batches that run concurrently, in one thread each, 1 or more.
        buckets: Batch sizes in rows to which batches are padded; empty disables padding.
    """

    max_rows: int
    max_delay_us: int = 0
    preferred: tuple[int, ...] = ()
    levels: int = 0
    default_level: int = 0
    policy: QueuePolicy = QueuePolicy()
    policies: Mapping[int, QueuePolicy] = field(default_factory=dict)
    instances: int = 1
    buckets: tuple[int, ...] = ()

    def padded_rows(self, rows: int) -> int:
        """Return the number of rows to which a batch of `rows` is padded: its bucket, or `rows` if none is as large."""
        return min((size for size in self.buckets if size >= rows), default=rows)

    def level(self, priority: int) -> int:
        """Return the level of a request that set `priority`."""
        return priority if 1 <= priority <= self.levels else self.default_level

    def policy_at(self, level: int) -> QueuePolicy:
        """Return the queue policy of a level."""
        return self.policies.get(level, self.policy)


@dataclass(eq=False)
class QueuedRequest:
    """A request that waits for its batch.

    Attributes:
        inputs: Arrays by input name; the batch is their first dimension, unless the request runs alone.
        rows: Size of the batch dimension.
        level: Priority level, 1 first.
        outputs: Future that receives the output arrays.
        enqueued_ns: Arrival, by `time.monotonic_ns`.
        expired: Whether its timeout has passed, and its policy defers it.
        alone: Whether it must be a batch of its own.
        taken: Whether its batch has left the queue to run.
    """

    inputs: Arrays
    rows: int
    level: int
    outputs: "asyncio.Future[Outputs]"
    enqueued_ns: int = field(default_factory=time.monotonic_ns)
    expired: bool = False
    alone: bool = False
    taken: bool = False

    @property
    def sort_key(self) -> tuple[bool, int, int]:
        """Position in the queue; the smallest runs first."""
        return self.expired, self.level, self.enqueued_ns


class RequestQueue:
    """Requests that may share a batch, in the order in which they run."""

    def __init__(self) -> None:
        self._requests: list[QueuedRequest] = []

    def __len__(self) -> int:
        return len(self._requests)

    @property
    def first(self) -> QueuedRequest:
        """The request that runs next."""
        return self._requests[0]

    @property
    def oldest_ns(self) -> int:
        """Arrival of the request that has waited longest, by `time.monotonic_ns`."""
        return min(request.enqueued_ns for request in self._requests)

    def count_at(self, level: int) -> int:
        """Return the number of waiting requests of a level."""
        return sum(request.level == level and not request.outputs.done() for request in self._requests)

    def add(self, request: QueuedRequest) -> None:
        """Insert a request at its position."""
        insort(self._requests, request, key=lambda queued: queued.sort_key)

    def remove(self, request: QueuedRequest) -> bool:
        """Remove a request; return False if it is no longer queued."""
        if request not in self._requests:
            return False
        self._requests.remove(request)
        return True

    def drop_done(self) -> None:
        """Remove the requests whose future is done: cancelled or timed out."""
        if any(request.outputs.done() for request in self._requests):
            self._requests = [request for request in self._requests if not request.outputs.done()]

    def fills_batch(self, settings: BatchSettings) -> bool:
        """Return whether the queued rows fill the smallest preferred batch, or else the largest batch."""
        rows = sum(request.rows for request in self._requests)
        return rows >= min((settings.max_rows, *settings.preferred))

    def take(self, settings: BatchSettings) -> list[QueuedRequest]:
        """Remove and return the next batch: of the largest possible preferred size, else of as many requests as fit."""
        count = self._next_count(settings.max_rows, settings.preferred)
        batch, self._requests = self._requests[:count], self._requests[count:]
        for request in batch:
            request.taken = True
        return batch

    def _next_count(self, max_rows: int, preferred: Sequence[int]) -> int:
        """Return the number of requests in the next batch; a request larger than `max_rows` is a batch of its own."""
        rows, fitting, best = 0, 0, 0
        for count, request in enumerate(self._requests, start=1):
            rows += request.rows
            if rows > max_rows:
                break
            fitting = count
            best = count if rows in preferred else best
        return best or fitting or 1
