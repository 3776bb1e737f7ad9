"""Counts and durations of one version of a model, defined as in Triton.

A request's time is the sum of its phases: queue (from its arrival until its batch is taken), compute_input (stacking
the batch), compute_infer (the runtime), compute_output (splitting the outputs). The full compute times of a batch are
added for each of its requests, because each waited for all of them. Requests rejected before queueing are not counted.
"""

import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum


class Reason(StrEnum):
    """Why a request failed, under the names of Triton's metrics."""

    OTHER = "OTHER"
    CANCELED = "CANCELED"
    BACKEND = "BACKEND"
    REJECTED = "REJECTED"


@dataclass
class Duration:
    """Number of events and their total duration in nanoseconds."""

    count: int = 0
    ns: int = 0

    def add(self, ns: int, count: int = 1) -> None:
        """Add `count` events that took `ns` in total."""
        self.count += count
        self.ns += ns


@dataclass(frozen=True)
class Timing:
    """Start of each phase of one batch, by `time.monotonic_ns`; `end_ns` is when its outputs were split."""

    taken_ns: int
    infer_ns: int
    output_ns: int
    end_ns: int

    @property
    def phases_ns(self) -> tuple[int, int, int]:
        """Durations of compute_input, compute_infer and compute_output."""
        return self.infer_ns - self.taken_ns, self.output_ns - self.infer_ns, self.end_ns - self.output_ns


@dataclass
class Compute:
    """Durations of the three compute phases."""

    input: Duration = field(default_factory=Duration)
    infer: Duration = field(default_factory=Duration)
    output: Duration = field(default_factory=Duration)

    def add(self, timing: Timing, count: int = 1) -> None:
        """Add one batch's times for `count` of the requests that waited for it."""
        for duration, ns in zip((self.input, self.infer, self.output), timing.phases_ns, strict=True):
            duration.add(ns * count, count)


@dataclass
class Statistics:
    """Statistics since the model was loaded. Any thread may add to them.

    Attributes:
        inferences: Rows of successful batches.
        executions: Successful batches.
        last_inference_ms: End of the last successful batch, in milliseconds since 1970; 0 before the first.
        success: Requests that succeeded, from arrival to outputs.
        fail: Requests that were accepted and failed, from arrival to failure.
        queue: Time that successful requests spent queued.
        compute: Compute phases, added once per successful request.
        batches: Compute phases by batch size in rows, added once per batch.
        failures: Failed requests by reason.
    """

    inferences: int = 0
    executions: int = 0
    last_inference_ms: int = 0
    success: Duration = field(default_factory=Duration)
    fail: Duration = field(default_factory=Duration)
    queue: Duration = field(default_factory=Duration)
    compute: Compute = field(default_factory=Compute)
    batches: dict[int, Compute] = field(default_factory=dict)
    failures: Counter[Reason] = field(default_factory=Counter)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    def succeeded(self, rows: int, arrivals_ns: Sequence[int], timing: Timing) -> None:
        """Count one batch of `rows` rows whose requests arrived at `arrivals_ns`."""
        requests, arrived_ns = len(arrivals_ns), sum(arrivals_ns)
        with self._lock:
            self.inferences += rows
            self.executions += 1
            self.last_inference_ms = time.time_ns() // 1_000_000
            self.success.add(timing.end_ns * requests - arrived_ns, requests)
            self.queue.add(timing.taken_ns * requests - arrived_ns, requests)
            self.compute.add(timing, requests)
            self.batches.setdefault(rows, Compute()).add(timing)

    def failed(self, arrived_ns: int, reason: Reason) -> None:
        """Count one request that failed after it was accepted."""
        with self._lock:
            self.fail.add(time.monotonic_ns() - arrived_ns)
            self.failures[reason] += 1
