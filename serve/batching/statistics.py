"""Counts and durations of one version of a model, as Triton counts them.

A request's time is the sum of its parts: queue (from its arrival until its batch is taken), compute_input (joining the
batch), compute_infer (the runtime), compute_output (sharing the outputs out). Each request of a batch is given the
batch's whole compute times, as it waited for all of them. What is refused before it queues is not counted.
"""

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum


class Reason(StrEnum):
    """Why a request failed; the words of Triton's metrics."""

    OTHER = "OTHER"
    CANCELED = "CANCELED"
    BACKEND = "BACKEND"
    REJECTED = "REJECTED"


@dataclass
class Duration:
    """How often, and how long in all."""

    count: int = 0
    ns: int = 0

    def add(self, ns: int, count: int = 1) -> None:
        """Count `count` more, which took `ns` together."""
        self.count += count
        self.ns += ns


@dataclass(frozen=True)
class Timing:
    """When each part of one batch began, by `time.monotonic_ns`; `end_ns` is when the answers were given."""

    taken_ns: int
    infer_ns: int
    output_ns: int
    end_ns: int

    @property
    def parts_ns(self) -> tuple[int, int, int]:
        """compute_input, compute_infer and compute_output."""
        return self.infer_ns - self.taken_ns, self.output_ns - self.infer_ns, self.end_ns - self.output_ns


@dataclass
class Compute:
    """The three parts of computing."""

    input: Duration = field(default_factory=Duration)
    infer: Duration = field(default_factory=Duration)
    output: Duration = field(default_factory=Duration)

    def add(self, timing: Timing, count: int = 1) -> None:
        """Count one batch's times for `count` of those who waited for it."""
        for duration, ns in zip((self.input, self.infer, self.output), timing.parts_ns, strict=True):
            duration.add(ns * count, count)


@dataclass
class Statistics:
    """What a model has done since it was loaded. `inferences` counts rows, `executions` batches."""

    inferences: int = 0
    executions: int = 0
    last_inference_ms: int = 0
    success: Duration = field(default_factory=Duration)
    fail: Duration = field(default_factory=Duration)
    queue: Duration = field(default_factory=Duration)
    compute: Compute = field(default_factory=Compute)
    batches: dict[int, Compute] = field(default_factory=dict)
    failures: Counter[Reason] = field(default_factory=Counter)

    def succeeded(self, rows: int, arrivals_ns: Sequence[int], timing: Timing) -> None:
        """Count one batch of `rows` rows, whose requests came at `arrivals_ns`."""
        self.inferences += rows
        self.executions += 1
        self.last_inference_ms = time.time_ns() // 1_000_000
        requests, arrived_ns = len(arrivals_ns), sum(arrivals_ns)
        self.success.add(timing.end_ns * requests - arrived_ns, requests)
        self.queue.add(timing.taken_ns * requests - arrived_ns, requests)
        self.compute.add(timing, requests)
        self.batches.setdefault(rows, Compute()).add(timing)

    def failed(self, arrived_ns: int, reason: Reason) -> None:
        """Count one request that had been accepted, and got no answer."""
        self.fail.add(time.monotonic_ns() - arrived_ns)
        self.failures[reason] += 1
