"""Measures variant and original alternately, so that other load on the machine affects both equally."""

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

MIN_MEASUREMENT_S = 0.005  # a measurement repeats the run until it takes about this long
ROUNDS = 30
MAX_ROUNDS = 150
WARM_UP_RUNS = 3

Run = Callable[[], object]


@dataclass(frozen=True)
class Spread:
    """Median and quartiles of measured times in milliseconds; `low` and `high` are the quartiles."""

    median: float
    low: float
    high: float


@dataclass(frozen=True)
class Latency:
    """Latency of one image with one thread.

    Attributes:
        device: "cpu" or "cuda".
        rounds: Number of paired measurements.
        fp32_ms: Milliseconds per image of the original.
        variant_ms: Likewise, of the variant.
        speedup: Median of the paired ratios fp32 / variant.
        speedup_low: Lower end of the speedup's 95 % confidence interval.
        speedup_high: Upper end.
    """

    device: str
    rounds: int
    fp32_ms: Spread
    variant_ms: Spread
    speedup: float
    speedup_low: float
    speedup_high: float


def compare(device: str, original: Run, variant: Run, bound: float) -> Latency:
    """Time both alternately until the confidence interval excludes `bound`, at most MAX_ROUNDS times."""
    repeats = [_repeats(run) for run in (original, variant)]
    pairs: list[tuple[float, float]] = []
    while True:
        for _ in range(ROUNDS):
            pairs.append(_time_pair(original, variant, repeats, swapped=len(pairs) % 2 == 1))
        latency = summary(device, pairs)
        if len(pairs) >= MAX_ROUNDS or not latency.speedup_low <= bound <= latency.speedup_high:
            return latency


def summary(device: str, pairs: Sequence[tuple[float, float]]) -> Latency:
    """Summarise paired times (fp32, variant) in milliseconds."""
    ratios = sorted(original / variant for original, variant in pairs)
    # The confidence interval of a median lies between two order statistics; 0.98 is 1.96 / 2.
    skip = max(0, math.floor(len(ratios) / 2 - 0.98 * math.sqrt(len(ratios))))
    fp32_ms, variant_ms = (_spread(times) for times in zip(*pairs, strict=True))
    return Latency(device, len(pairs), fp32_ms, variant_ms, statistics.median(ratios), ratios[skip], ratios[-1 - skip])


def _spread(times: Sequence[float]) -> Spread:
    low, median, high = statistics.quantiles(times, n=4)
    return Spread(median, low, high)


def _time_pair(original: Run, variant: Run, repeats: Sequence[int], *, swapped: bool) -> tuple[float, float]:
    if swapped:
        variant_ms = _time(variant, repeats[1])
        return _time(original, repeats[0]), variant_ms
    return _time(original, repeats[0]), _time(variant, repeats[1])


def _time(run: Run, repeats: int) -> float:
    """Return the milliseconds per run."""
    start = time.perf_counter()
    for _ in range(repeats):
        run()
    return (time.perf_counter() - start) * 1e3 / repeats


def _repeats(run: Run) -> int:
    """Return the number of runs that take MIN_MEASUREMENT_S."""
    for _ in range(WARM_UP_RUNS):
        run()
    return max(1, math.ceil(MIN_MEASUREMENT_S * 1e3 / _time(run, WARM_UP_RUNS)))
