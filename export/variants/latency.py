"""How long one image takes, in turns with the original, so that whatever else the machine does meets both alike."""

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

SLICE_S = 0.005  # a turn lasts at least so long
ROUNDS = 30
MAX_ROUNDS = 150
WARM_UP = 3

Run = Callable[[], object]


@dataclass(frozen=True)
class Spread:
    """The median and the middle half."""

    median: float
    low: float
    high: float


@dataclass(frozen=True)
class Latency:
    """Milliseconds an image, batch 1, one thread; `speedup` is the median of the paired ratios fp32 / variant.

    With 95 % confidence it lies between `speedup_low` and `speedup_high`.
    """

    device: str
    rounds: int
    fp32_ms: Spread
    variant_ms: Spread
    speedup: float
    speedup_low: float
    speedup_high: float


def compare(device: str, original: Run, variant: Run, bound: float) -> Latency:
    """Time both in turns, until it is clear on which side of `bound` the speedup lies, or MAX_ROUNDS are over."""
    repeats = [_repeats(run) for run in (original, variant)]
    pairs: list[tuple[float, float]] = []
    while True:
        for _ in range(ROUNDS):
            pairs.append(_turn(original, variant, repeats, swapped=len(pairs) % 2 == 1))
        found = summary(device, pairs)
        if len(pairs) >= MAX_ROUNDS or not found.speedup_low <= bound <= found.speedup_high:
            return found


def summary(device: str, pairs: Sequence[tuple[float, float]]) -> Latency:
    """Summarise paired times in milliseconds, (fp32, variant) each."""
    ratios = sorted(original / variant for original, variant in pairs)
    skip = max(0, math.floor(len(ratios) / 2 - 0.98 * math.sqrt(len(ratios))))  # of a median, by its order statistics
    fp32_ms, variant_ms = (_spread(times) for times in zip(*pairs, strict=True))
    return Latency(device, len(pairs), fp32_ms, variant_ms, statistics.median(ratios), ratios[skip], ratios[-1 - skip])


def _spread(times: Sequence[float]) -> Spread:
    low, median, high = statistics.quantiles(times, n=4)
    return Spread(median, low, high)


def _turn(original: Run, variant: Run, repeats: Sequence[int], *, swapped: bool) -> tuple[float, float]:
    if swapped:
        second = _timed(variant, repeats[1])
        return _timed(original, repeats[0]), second
    return _timed(original, repeats[0]), _timed(variant, repeats[1])


def _timed(run: Run, repeats: int) -> float:
    start = time.perf_counter()
    for _ in range(repeats):
        run()
    return (time.perf_counter() - start) * 1e3 / repeats


def _repeats(run: Run) -> int:
    for _ in range(WARM_UP):
        run()
    return max(1, math.ceil(SLICE_S * 1e3 / _timed(run, WARM_UP)))
