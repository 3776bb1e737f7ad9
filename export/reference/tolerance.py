"""Decides whether an array agrees with PyTorch, within a tolerance derived from PyTorch's own float32 error.

PyTorch's float32 result differs from its float64 result by some error, and a faithful conversion differs by about as
much. The tolerance is a small multiple of that error, with a floor for values that happen to be exact in float32, and a
ceiling for values that are unreliable; both are relative to the magnitude of the values. Where the reference is
infinite or NaN, the compared array must be so too. Values that exceed all others by orders of magnitude, such as those
of an attention mask, are compared separately: their tolerance would accept any error of the others.

export/verify/parity.py applies this to all outputs and layers of a model.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from export.arrays import Array

CEILING = 1e-2  # of the largest magnitude: a network with a larger float32 error cannot be compared
NOISE_MULTIPLE = 10.0  # measured: onnxruntime differs by 0.7 to 2.3 times PyTorch's float32 error
GAP = 1e3  # ratio of neighbouring magnitudes from which values above and below are compared separately
MIN_SHARE, MIN_COUNT = 0.1, 4  # of the values below such a gap: fewer may be residues of cancelled large values
SAMPLE = 4096  # elements that suffice to reject most different arrays
FLOOR = 4e-6  # of the largest magnitude: 32 units in the last place of float32

VARIANT_MULTIPLE = 2.0  # of a variant's largest difference measured here: another CPU may round differently
VARIANT_FLOOR = 1e-6


@dataclass(frozen=True)
class Agreement:
    """The result of one comparison with PyTorch.

    Attributes:
        max_abs_error: The largest absolute difference from PyTorch's float32.
        reference_error: The largest absolute difference between PyTorch's float32 and float64.
        tolerance: The largest accepted `max_abs_error`.
    """

    max_abs_error: float
    reference_error: float
    tolerance: float

    @property
    def holds(self) -> bool:
        """Whether the error is within the tolerance; false if it is NaN."""
        return self.max_abs_error <= self.tolerance

    @property
    def share(self) -> float:
        """The error as a share of the tolerance."""
        return self.max_abs_error / self.tolerance if self.tolerance else float(self.max_abs_error > 0)


class Reference:
    """A float32 result of PyTorch, and the tolerance that follows from the float64 result, which is not kept."""

    def __init__(
        self,
        float32: Array,
        float64: Array,
        floor: float = FLOOR,
        lanes: Array | None = None,
        least_tolerance: float = 0.0,
    ) -> None:
        """Derive the tolerance.

        `lanes` is a float32 result with sums in lanes (see tracing/lane_sums.py); all arrays have the same shape.
        `floor` is the smallest tolerance, as a share of the largest magnitude; `least_tolerance` is an absolute one.
        """
        float32, float64 = _as_real(float32), _as_real(float64)
        lanes = None if lanes is None else _as_real(lanes)
        self._float32 = float32
        results = (float32,) if lanes is None else (float32, lanes)
        self._error = max(_finite_distance(result, float64) for result in results)
        self._scale = _magnitude(float32)
        self._floor, self._least_tolerance = floor, least_tolerance
        self._tolerance = self._tolerance_for(self._error)
        self._parts = [
            (mask, Reference(float32[mask], float64[mask], floor, None if lanes is None else lanes[mask]))
            for mask in _magnitude_groups(float32, self._scale)
        ]
        self._stride = max(1, float32.size // SAMPLE)
        self._sample = float32.reshape(-1)[:: self._stride].copy()
        is_reliable = NOISE_MULTIPLE * self._error <= CEILING * self._scale
        self._row_errors = None if is_reliable or not float32.ndim else _row_errors(results, float64)

    @property
    def float32(self) -> Array:
        """PyTorch's float32 result; complex numbers are pairs of real ones."""
        return self._float32

    @property
    def tolerance(self) -> float:
        """The largest accepted difference; values of several groups of magnitudes have smaller ones."""
        return self._tolerance

    @property
    def error(self) -> float:
        """The largest absolute difference between PyTorch's float32 and float64."""
        return self._error

    def unreliable_rows(self, count: int) -> set[int]:
        """Return the indices of those of `count` inputs for which float32 differs too much from float64."""
        if self._row_errors is None or len(self._row_errors) % count:
            return set()
        per_input = self._row_errors.reshape(count, -1).max(axis=1)
        return set(np.flatnonzero(per_input > CEILING / NOISE_MULTIPLE * self._scale).tolist())

    def agreement(self, array: Array, least_error: float = 0.0) -> Agreement:
        """Compare `array`; of several groups of magnitudes, return a failed one, else that of the largest tolerance.

        `least_error` is a float32 error of comparable values: that of a few values may be 0 by chance.
        """
        array = _as_real(array)
        if self._parts and array.shape == self._float32.shape:
            agreements = [part.agreement(array[mask]) for mask, part in self._parts]
            return max(agreements, key=lambda agreement: (not agreement.holds, agreement.tolerance))
        reference_error = max(self._error, least_error)
        tolerance = self._tolerance_for(reference_error)
        error = distance(array, self._float32)
        return Agreement(_rounded(error), _rounded(reference_error), _rounded(tolerance))

    def may_hold(self, array: Array, multiple: float = 1.0) -> bool:
        """Return whether a sample of `array`, which has the same shape, is within a multiple of the tolerance."""
        if self._parts:
            return any(part.may_hold(array[mask], multiple) for mask, part in self._parts)
        return distance(array.reshape(-1)[:: self._stride], self._sample) <= 1.01 * multiple * self._tolerance

    def _tolerance_for(self, error: float) -> float:
        """Return the tolerance for a float32 error; integers and booleans must be equal."""
        if not np.issubdtype(self._float32.dtype, np.floating):
            return 0.0
        tolerance = max(NOISE_MULTIPLE * error, self._floor * self._scale, self._least_tolerance)
        return min(tolerance, CEILING * self._scale)


def _row_errors(results: Sequence[Array], float64: Array) -> Array:
    """Return the largest finite difference of any of the `results` from `float64` in each row."""
    with np.errstate(invalid="ignore", over="ignore"):
        differences = [np.abs(np.subtract(result, float64, dtype=np.float64)) for result in results]
    finite = np.nan_to_num(np.maximum.reduce(differences), posinf=0.0)
    errors: Array = finite.reshape(len(float64), -1).max(axis=1, initial=0.0)
    return errors


def _as_real(array: Array) -> Array:
    """Return complex numbers as pairs of real ones, on a new last axis."""
    return np.stack([array.real, array.imag], axis=-1) if np.iscomplexobj(array) else array


def _magnitude_groups(values: Array, largest: float) -> list[npt.NDArray[np.bool_]]:
    """Return masks of the values below and above a gap between magnitudes; an empty list if there is no gap."""
    if largest <= GAP or not np.issubdtype(values.dtype, np.floating):
        return []
    stride = max(1, values.size // SAMPLE)
    magnitudes = np.abs(values.reshape(-1)[::stride])
    magnitudes = np.sort(magnitudes[np.isfinite(magnitudes) & (magnitudes > 0)])
    gaps = np.flatnonzero((magnitudes[1:] > GAP) & (magnitudes[1:] / GAP >= magnitudes[:-1]))
    gaps = gaps[gaps + 1 >= max(MIN_COUNT, MIN_SHARE * magnitudes.size)]
    if not gaps.size:
        return []
    large = np.abs(values) > magnitudes[gaps[-1]] * np.sqrt(GAP)
    return [~large, large]


def compare(array: Array, float32: Array, float64: Array, lanes: Array | None = None) -> Agreement:
    """Compare `array` with PyTorch's results, all of the same shape; `lanes` is float32 with sums in lanes."""
    return Reference(float32, float64, lanes=lanes).agreement(array)


def distance(a: Array, b: Array) -> float:
    """Return the largest absolute difference; infinite if only one value of a pair is NaN, or if the shapes differ."""
    if a.shape != b.shape:
        return float("inf")
    largest = _largest_difference(a, b)
    if np.isfinite(largest):  # the usual case, three times as fast
        return largest
    left, right = np.asarray(a, np.float64), np.asarray(b, np.float64)
    equal = (left == right) | (np.isnan(left) & np.isnan(right))
    with np.errstate(invalid="ignore"):  # infinity minus infinity: covered by `equal`
        difference = np.nan_to_num(np.abs(left - right), nan=np.inf, posinf=np.inf)
    return float(np.max(difference, initial=0.0, where=~equal))


def _finite_distance(a: Array, b: Array) -> float:
    """Return the largest absolute difference of elements that are finite in both arrays."""
    largest = _largest_difference(a, b)
    if np.isfinite(largest):
        return largest
    finite = np.isfinite(a) & np.isfinite(b)
    return distance(a[finite], b[finite])


def _magnitude(values: Array) -> float:
    """Return the largest magnitude of the finite values."""
    largest = max(float(np.max(values, initial=0.0)), -float(np.min(values, initial=0.0)))
    return largest if np.isfinite(largest) else _magnitude(values[np.isfinite(values)])


def _largest_difference(a: Array, b: Array) -> float:
    """Return the largest absolute difference of arrays of one shape; NaN or infinite if any difference is.

    Two float32 arrays are subtracted in float32, which is exact for close values.
    """
    dtype = np.float32 if a.dtype == b.dtype == np.float32 else np.float64
    with np.errstate(invalid="ignore", over="ignore"):
        difference = np.subtract(a, b, dtype=dtype)
        return max(float(np.max(difference, initial=0.0)), -float(np.min(difference, initial=0.0)))


def _rounded(value: float) -> float:
    """Round to three digits, which are the same in every run."""
    return float(f"{value:.2e}")
