"""A line before a model: requests that may share a batch, those of higher priority first, then the oldest.

How long a line may be and how long a request may stand in it is its policy's, as in Triton's `ModelQueuePolicy`.
"""

import asyncio
import time
from bisect import insort
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy.typing as npt

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class QueuePolicy:
    """For requests of one priority. 0 is no limit, of `max_waiting` requests as of `timeout_us`.

    A request may ask for a shorter timeout where `may_override`. A request that is late is rejected, or, where it may
    `linger`, goes behind all that are not.
    """

    max_waiting: int = 0
    timeout_us: int = 0
    may_override: bool = False
    linger: bool = False

    def timeout_for(self, asked_us: int) -> int:
        """How long a request may wait that asked for `asked_us`; 0 is for ever."""
        limits = [self.timeout_us, asked_us if self.may_override else 0]
        return min((each for each in limits if each), default=0)


@dataclass(frozen=True)
class BatchSettings:
    """`max_rows` is the largest batch (1 or more); `max_delay_us` is how long a request may wait for others.

    A batch of one of the `preferred` sizes does not wait. Priorities are 1, the highest, to `levels`; a request without
    one has `default_level`. `instances` is how many batches run at once. A batch of a size between two `buckets` is
    filled up to the larger; without buckets every size goes as it is.
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

    def bucket(self, rows: int) -> int:
        """How many rows a batch of `rows` is run with."""
        return min((size for size in self.buckets if size >= rows), default=rows)

    def level(self, priority: int) -> int:
        """The level of a request that asks for `priority`."""
        return priority if 1 <= priority <= self.levels else self.default_level

    def policy_at(self, level: int) -> QueuePolicy:
        """What holds for requests of a level."""
        return self.policies.get(level, self.policy)


@dataclass(eq=False)
class QueuedRequest:
    """A request in line. Its arrays have the batch first, unless it must be run `alone` and as it is.

    `taken` is set when its batch leaves the line to be run.
    """

    inputs: Mapping[str, Array]
    rows: int
    level: int
    answer: "asyncio.Future[dict[str, Array]]"
    since_ns: int = field(default_factory=time.monotonic_ns)
    late: bool = False
    alone: bool = False
    taken: bool = False

    @property
    def place(self) -> tuple[bool, int, int]:
        """Where it stands: the smallest goes first."""
        return self.late, self.level, self.since_ns


class Line:
    """Requests that may share a batch, in the order in which they go."""

    def __init__(self) -> None:
        self._waiting: list[QueuedRequest] = []

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def first(self) -> QueuedRequest:
        """The next to go."""
        return self._waiting[0]

    @property
    def oldest_ns(self) -> int:
        """When the one who waits for longest came."""
        return min(each.since_ns for each in self._waiting)

    def waiting_at(self, level: int) -> int:
        """How many of a level wait."""
        return sum(each.level == level and not each.answer.done() for each in self._waiting)

    def join(self, waiting: QueuedRequest) -> None:
        """Let a request stand where it belongs."""
        insort(self._waiting, waiting, key=lambda each: each.place)

    def leave(self, waiting: QueuedRequest) -> bool:
        """Take a request out; False where it is not in line any more."""
        if waiting not in self._waiting:
            return False
        self._waiting.remove(waiting)
        return True

    def drop_answered(self) -> None:
        """Take out those that need no answer any more."""
        if any(each.answer.done() for each in self._waiting):
            self._waiting = [each for each in self._waiting if not each.answer.done()]

    def ready(self, settings: BatchSettings) -> bool:
        """Whether a batch can go that is as large as one may wish."""
        rows = sum(each.rows for each in self._waiting)
        return rows >= min((settings.max_rows, *settings.preferred))

    def take(self, settings: BatchSettings) -> list[QueuedRequest]:
        """Take the head of the line: the largest preferred batch, or else as many as fit."""
        count = self._fitting(settings.max_rows, settings.preferred)
        batch, self._waiting = self._waiting[:count], self._waiting[count:]
        for each in batch:
            each.taken = True
        return batch

    def _fitting(self, max_rows: int, preferred: Sequence[int]) -> int:
        """How many go together; one that is larger than `max_rows` goes alone."""
        rows, fitting, best = 0, 0, 0
        for count, each in enumerate(self._waiting, start=1):
            rows += each.rows
            if rows > max_rows:
                break
            fitting = count
            best = count if rows in preferred else best
        return best or fitting or 1
