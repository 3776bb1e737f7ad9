"""Reference implementations of convolution and cross-correlation in float64, three ways, with NumPy only.

All accept one channel on one or two axes, without padding, at stride 1, and return the positions where the kernel lies
inside the input. The full convolution, as in textbook examples, is that of an input padded with zeros.
"""

import itertools
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Operator = Callable[[Array, Array], Array]


def shift_and_add(x: Array, w: Array) -> Array:
    """Compute cross-correlation as a sum of shifted inputs: y = sum_j w(j) x(. + j)."""
    lengths = [n - k + 1 for n, k in zip(x.shape, w.shape, strict=True)]
    y = np.zeros(lengths)
    for shift in itertools.product(*map(range, w.shape)):
        y += w[shift] * x[tuple(slice(start, start + length) for start, length in zip(shift, lengths, strict=True))]
    return y


def sliding_window(x: Array, w: Array) -> Array:
    """Compute cross-correlation as a dot product at each position: y(i) = <x[i : i + K], w>."""
    windows = np.lib.stride_tricks.sliding_window_view(x, w.shape)
    return np.tensordot(windows, w, axes=w.ndim)


def toeplitz(x: Array, w: Array) -> Array:
    """Compute cross-correlation as a matrix times the flattened input."""
    lengths = [n - k + 1 for n, k in zip(x.shape, w.shape, strict=True)]
    return (toeplitz_matrix(x.shape, w) @ x.ravel()).reshape(lengths)


def toeplitz_matrix(shape: tuple[int, ...], w: Array) -> Array:
    """Return the matrix of `toeplitz`, (outputs, inputs); each block is constant along its diagonals."""
    lengths = [n - k + 1 for n, k in zip(shape, w.shape, strict=True)]
    matrix = np.zeros((*lengths, *shape))
    for position in itertools.product(*map(range, lengths)):
        for tap in itertools.product(*map(range, w.shape)):
            matrix[(*position, *(i + j for i, j in zip(position, tap, strict=True)))] = w[tap]
    return matrix.reshape(int(np.prod(lengths)), int(np.prod(shape)))


IMPLEMENTATIONS: tuple[Operator, ...] = (shift_and_add, sliding_window, toeplitz)


def full_convolution(x: Array, w: Array, correlate: Operator = shift_and_add) -> Array:
    """Return the convolution x * w at all positions where the two overlap, n + k - 1 on each axis."""
    return correlate(np.pad(x, [(k - 1, k - 1) for k in w.shape]), np.flip(w))


def full_correlation(x: Array, w: Array) -> Array:
    """Return the cross-correlation at all positions where the two overlap."""
    return full_convolution(x, np.flip(w))
