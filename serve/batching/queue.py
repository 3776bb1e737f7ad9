"""Queues of requests that may share a batch: ordered by priority, then by arrival.

The queue policies are those of Triton's `ModelQueuePolicy`: they limit the number of waiting requests and their waiting
time.
"""

import time
from collections import OrderedDict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

from numpy.typing import NDArray

PlanT = TypeVar("PlanT", bound=Hashable)
Arrays = Mapping[str, NDArray[Any]]
Level = tuple[bool, int]
COST_DECAY = 0.9  # of the estimated cost, for each cheaper run: a first run is slow, because it allocates memory
NEVER_INLINE_NS = 20_000_000  # after a run that used so much CPU time, a queue's cost is considered unpredictable


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
        inline_limit_ns: Largest estimated CPU time of a batch that the receiving thread may run itself; 0 is none.
        ahead: Batches that are stacked while others run; for a device that works beside the CPU.
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
    inline_limit_ns: int = 0
    ahead: int = 0

    def padded_rows(self, rows: int) -> int:
        """Return the number of rows to which a batch of `rows` is padded: its bucket, or `rows` if none is as large."""
        return min((size for size in self.buckets if size >= rows), default=rows)

    def level(self, priority: int) -> int:
        """Return the level of a request that set `priority`."""
        return priority if 1 <= priority <= self.levels else self.default_level

    def policy_at(self, level: int) -> QueuePolicy:
        """Return the queue policy of a level."""
        return self.policies.get(level, self.policy)


class Reply(Protocol):
    """Where the result of a request goes. One of its methods is called once, by any thread; neither raises."""

    def succeed(self, outputs: Arrays) -> None:
        """Deliver the outputs."""

    def fail(self, error: Exception) -> None:
        """Deliver an error."""


class QueuedRequest:
    """A request that waits for its batch.

    Attributes:
        inputs: Arrays by input name; the batch is their first dimension, unless the request runs alone.
        rows: Size of the batch dimension.
        reply: Where its result goes.
        level: Priority level, 1 first.
        enqueued_ns: Arrival, by `time.monotonic_ns`.
        expired: Whether its timeout has passed, and its policy defers it.
        queue: The queue that it waits in; None before, and once it is taken or removed.
    """

    __slots__ = ("enqueued_ns", "expired", "inputs", "level", "queue", "reply", "rows")

    def __init__(self, inputs: Arrays, rows: int, reply: Reply, level: int = 0) -> None:
        self.inputs, self.rows, self.reply, self.level = inputs, rows, reply, level
        self.enqueued_ns = time.monotonic_ns()
        self.expired = False
        self.queue: RequestQueue[Any] | None = None

    @property
    def sort_key(self) -> tuple[bool, int, int]:
        """Position among all waiting requests; the smallest runs first."""
        return self.expired, self.level, self.enqueued_ns


class RequestQueue(Generic[PlanT]):
    """Requests that may share a batch, in the order in which they run; adding and removing one takes constant time.

    Attributes:
        plan: What runs them.
        is_shared: Whether several requests may share a batch.
    """

    __slots__ = ("__weakref__", "_costs_ns", "_count", "_levels", "_rows", "is_shared", "plan")

    def __init__(self, plan: PlanT, *, is_shared: bool = True) -> None:
        self.plan, self.is_shared = plan, is_shared
        self._costs_ns: dict[int, int] = {}  # by the number of binary digits of a batch's rows
        self._levels: dict[Level, OrderedDict[QueuedRequest, None]] = {}
        self._count = self._rows = 0

    def __len__(self) -> int:
        return self._count

    @property
    def first(self) -> QueuedRequest:
        """The request that runs next."""
        return next(iter(self._levels[min(self._levels)]))

    @property
    def oldest_ns(self) -> int:
        """Arrival of the request that has waited longest, by `time.monotonic_ns`."""
        return min(next(iter(requests)).enqueued_ns for requests in self._levels.values())

    def add(self, request: QueuedRequest) -> None:
        """Append a request to those of its level."""
        level = (request.expired, request.level)
        requests = self._levels.get(level)
        if requests is None:
            requests = self._levels[level] = OrderedDict()
        requests[request] = None
        self._count += 1
        self._rows += request.rows
        request.queue = self

    def remove(self, request: QueuedRequest) -> None:
        """Remove a waiting request."""
        level = (request.expired, request.level)
        requests = self._levels[level]
        del requests[request]
        if not requests:
            del self._levels[level]
        self._count -= 1
        self._rows -= request.rows
        request.queue = None

    def fills_batch(self, settings: BatchSettings) -> bool:
        """Return whether the queued rows fill the smallest preferred batch, or else the largest batch."""
        return not self.is_shared or self._rows >= min((settings.max_rows, *settings.preferred))

    def cost_ns(self, settings: BatchSettings) -> int | None:
        """Return the estimated CPU time of the next batch in its thread; None if it is unknown or unpredictable."""
        size = min(self._rows, settings.max_rows).bit_length()
        known = max((other for other in self._costs_ns if other <= size), default=None)
        if known is None or max(self._costs_ns.values()) > NEVER_INLINE_NS:
            return None
        return self._costs_ns[known] << (size - known)

    def measured(self, rows: int, ns: int) -> None:
        """Note that a batch of `rows` used `ns` of CPU time: the estimate rises at once, and falls slowly."""
        size = rows.bit_length()
        estimate_ns = self._costs_ns.get(size, 0)
        if estimate_ns <= NEVER_INLINE_NS:
            self._costs_ns[size] = max(ns, int(estimate_ns * COST_DECAY))

    def take(self, settings: BatchSettings) -> list[QueuedRequest]:
        """Remove and return the next batch: of the largest possible preferred size, else of as many requests as fit."""
        batch = self._next_batch(settings.max_rows, settings.preferred) if self.is_shared else [self.first]
        for request in batch:
            self.remove(request)
        return batch

    def _next_batch(self, max_rows: int, preferred: Sequence[int]) -> list[QueuedRequest]:
        """Return the requests of the next batch; a request larger than `max_rows` is a batch of its own."""
        rows, best = 0, 0
        batch: list[QueuedRequest] = []
        for request in (request for level in sorted(self._levels) for request in self._levels[level]):
            if rows + request.rows > max_rows and batch:
                break
            rows += request.rows
            batch.append(request)
            best = len(batch) if rows in preferred else best
        return batch[:best] if best else batch
