"""Tells whether two computations of the same thing agree.

The measure is PyTorch itself: its float32 result lies some distance from its own float64 result, and a faithful
conversion lies about as far. So the tolerance is a small multiple of that distance, with a floor for values where
float32 happens to be exact and a ceiling where it is hopeless, both relative to the values' size. Where a result is
infinite or NaN, both must be. Numbers that lie far above all others, as those of a mask do, are compared by themselves:
what they allow would be anything for the others.

Ensures: two arrays either agree within a tolerance that has a reason, or do not. numbers.py asks for all of a model.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

CEILING = 1e-2  # of the largest magnitude: a network whose own float32 is worse than that cannot be compared
NOISE_MULTIPLE = 10.0  # measured: onnxruntime lies at 0.7 to 2.3 times PyTorch's own noise
GAP = 1e3  # between one number and the next larger: beyond it begin those that are compared by themselves
LEAST_SHARE, LEAST = 0.1, 4  # of the numbers below such a gap: fewer may be what large ones left by chance
SAMPLE = 4096  # elements that tell most values apart
FLOOR = 4e-6  # of the largest magnitude: 32 units in float32's last place

VARIANT_MULTIPLE = 2.0  # of a variant's largest difference measured here: another CPU may round otherwise
VARIANT_FLOOR = 1e-6

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Agreement:
    """How far `got` lies from PyTorch, beside how far PyTorch lies from float64. All are absolute."""

    max_abs_error: float
    reference_error: float
    tolerance: float

    @property
    def holds(self) -> bool:
        """Whether the error is within the tolerance (an error that is NaN is not)."""
        return self.max_abs_error <= self.tolerance

    @property
    def share(self) -> float:
        """The error as a share of what is allowed."""
        return self.max_abs_error / self.tolerance if self.tolerance else float(self.max_abs_error > 0)


class Reference:
    """What PyTorch gave, in float32 and in float64: computed once, compared with many."""

    def __init__(self, expected: Array, exact: Array, floor: float = FLOOR, other: Array | None = None) -> None:
        """`expected` and `exact` are of one shape, and so is `other`, float32 computed in another way.

        `floor` is the least tolerance, as a share of the largest magnitude.
        """
        self._expected, self._exact = expected, exact
        self._ways = (expected,) if other is None else (expected, other)
        self._error = max(_known_distance(way, exact) for way in self._ways)
        self._scale = _magnitude(expected)
        self._tolerance = min(max(NOISE_MULTIPLE * self._error, floor * self._scale), CEILING * self._scale)
        if not np.issubdtype(expected.dtype, np.floating):
            self._tolerance = 0.0  # a number that counts or decides is the same or wrong
        self._parts = [
            (where, Reference(expected[where], exact[where], floor, None if other is None else other[where]))
            for where in _groups(expected, self._scale)
        ]
        self._stride = max(1, expected.size // SAMPLE)

    def unreliable_rows(self, count: int) -> set[int]:
        """Of the rows of `count` inputs those in which float32 is too far from float64 to be compared with."""
        if NOISE_MULTIPLE * self._error <= CEILING * self._scale or not self._exact.ndim or len(self._exact) % count:
            return set()
        apart = np.maximum.reduce([np.abs(way - self._exact) for way in self._ways]).reshape(count, -1)
        hopeless = np.nan_to_num(apart, posinf=0.0).max(axis=1) > CEILING / NOISE_MULTIPLE * self._scale
        return set(np.flatnonzero(hopeless).tolist())

    def agreement(self, got: Array) -> Agreement:
        """How far `got` lies from PyTorch; of several groups of numbers, what fails, else what allows most."""
        if self._parts and got.shape == self._expected.shape:
            found = [part.agreement(got[where]) for where, part in self._parts]
            return max(found, key=lambda each: (not each.holds, each.tolerance))
        error = distance(got, self._expected)
        return Agreement(_rounded(error), _rounded(self._error), _rounded(self._tolerance))

    def may_hold(self, got: Array) -> bool:
        """Whether `got`, of the same shape, agrees as far as a sample of it tells."""
        if self._parts:
            return all(part.may_hold(got[where]) for where, part in self._parts)
        found, expected = (each.reshape(-1)[:: self._stride] for each in (got, self._expected))
        return distance(found, expected) <= 1.01 * self._tolerance


def _groups(numbers: Array, largest: float) -> list[npt.NDArray[np.bool_]]:
    """Where the numbers are that lie below a gap, and where those above; nothing where there is no gap."""
    if largest <= GAP or not np.issubdtype(numbers.dtype, np.floating):
        return []
    stride = max(1, numbers.size // SAMPLE)
    sizes = np.abs(numbers.reshape(-1)[::stride])
    sizes = np.sort(sizes[np.isfinite(sizes) & (sizes > 0)])
    gaps = np.flatnonzero((sizes[1:] > GAP) & (sizes[1:] / GAP >= sizes[:-1]))
    gaps = gaps[gaps + 1 >= max(LEAST, LEAST_SHARE * sizes.size)]
    if not gaps.size:
        return []
    large = np.abs(numbers) > sizes[gaps[-1]] * np.sqrt(GAP)
    return [~large, large]


def compare(got: Array, expected: Array, exact: Array, other: Array | None = None) -> Agreement:
    """Compare `got` with PyTorch's float32 `expected`, float64 `exact` and another float32, all of one shape."""
    return Reference(expected, exact, other=other).agreement(got)


def distance(a: Array, b: Array) -> float:
    """Return the largest absolute difference; infinite where one is NaN and the other not, or the shapes differ."""
    if a.shape != b.shape:
        return float("inf")
    largest = _largest(a, b)
    if np.isfinite(largest):  # the usual case, three times as fast
        return largest
    left, right = np.asarray(a, np.float64), np.asarray(b, np.float64)
    same = (left == right) | (np.isnan(left) & np.isnan(right))
    with np.errstate(invalid="ignore"):  # infinity minus infinity: told apart by `same`
        difference = np.nan_to_num(np.abs(left - right), nan=np.inf, posinf=np.inf)
    return float(np.max(difference, initial=0.0, where=~same))


def _known_distance(a: Array, b: Array) -> float:
    """The largest absolute difference where both are finite."""
    largest = _largest(a, b)
    if np.isfinite(largest):
        return largest
    known = np.isfinite(a) & np.isfinite(b)
    return distance(a[known], b[known])


def _magnitude(numbers: Array) -> float:
    """The largest magnitude of those that are finite."""
    largest = max(float(np.max(numbers, initial=0.0)), -float(np.min(numbers, initial=0.0)))
    return largest if np.isfinite(largest) else _magnitude(numbers[np.isfinite(numbers)])


def _largest(a: Array, b: Array) -> float:
    """The largest absolute difference of two arrays of one shape; NaN or infinite where a number of them is.

    Of two float32 arrays the difference is float32: of close numbers it is exact.
    """
    exact = np.float32 if a.dtype == b.dtype == np.float32 else np.float64
    with np.errstate(invalid="ignore", over="ignore"):
        difference = np.subtract(a, b, dtype=exact)
        return max(float(np.max(difference, initial=0.0)), -float(np.min(difference, initial=0.0)))


def _rounded(value: float) -> float:
    """Three digits: what a reader needs, and the same in every run."""
    return float(f"{value:.2e}")
