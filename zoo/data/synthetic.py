"""Synthetic signals of six kinds, drawn by code from one seed: nothing is stored or downloaded.

What tells the kinds apart stands at any place in the signal and at any phase, under noise: the case for shared weights.
"""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

LENGTH = 128
NOISE = 0.3  # standard deviation, where the signals reach from -1 to 1
MOTIF = np.array([0.2, 0.9, 1.0, 0.3, -0.8, -1.0, -0.4, 0.6, 0.9, 0.1, -0.5, -0.2])
REACH = 2.0  # what becomes 0 and 255 in bytes

Signal = npt.NDArray[np.float64]


def draw(per_kind: int, seed: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Bytes (N, LENGTH), where 127.5 is a signal's 0, and the kind of each as its place in KINDS; sorted by kind."""
    rng = np.random.default_rng(seed)
    clean = [rng.uniform(0.6, 1.0) * kind(rng) for kind in KINDS.values() for _ in range(per_kind)]
    noisy = np.stack(clean) + rng.normal(0.0, NOISE, (len(clean), LENGTH))
    scaled = (np.clip(noisy, -REACH, REACH) / REACH + 1) * 127.5
    return np.rint(scaled).astype(np.uint8), np.repeat(np.arange(len(KINDS)), per_kind)


def _cycles(rng: np.random.Generator) -> Signal:
    """A phase that grows evenly, in cycles."""
    return rng.uniform(3, 10) * np.linspace(0, 1, LENGTH) + rng.uniform()


def _sine(rng: np.random.Generator) -> Signal:
    return np.sin(2 * np.pi * _cycles(rng))


def _square(rng: np.random.Generator) -> Signal:
    return np.where(_cycles(rng) % 1 < 0.5, 1.0, -1.0)


def _sawtooth(rng: np.random.Generator) -> Signal:
    return 2 * (_cycles(rng) % 1) - 1


def _chirp(rng: np.random.Generator) -> Signal:
    """A sine whose frequency grows from start to end, two- to fivefold."""
    time, start = np.linspace(0, 1, LENGTH), rng.uniform(2, 5)
    growth = start * rng.uniform(1, 4)
    return np.sin(2 * np.pi * (start * time + growth * time**2 / 2 + rng.uniform()))


def _bursts(rng: np.random.Generator) -> Signal:
    """Two or three stretches of strong noise."""
    signal = np.zeros(LENGTH)
    for _ in range(rng.integers(2, 4)):
        length = rng.integers(10, 25)
        start = rng.integers(0, LENGTH - length)
        signal[start : start + length] = rng.uniform(-1, 1, length)
    return signal


def _motif(rng: np.random.Generator) -> Signal:
    """One short shape, two to four times, wherever."""
    signal = np.zeros(LENGTH)
    places = rng.choice(LENGTH // len(MOTIF) - 1, size=rng.integers(2, 5), replace=False)
    for place in places:
        start = place * len(MOTIF) + rng.integers(0, len(MOTIF))
        signal[start : start + len(MOTIF)] = MOTIF
    return signal


KINDS: dict[str, Callable[[np.random.Generator], Signal]] = {
    "sine": _sine,
    "square": _square,
    "sawtooth": _sawtooth,
    "chirp": _chirp,
    "bursts": _bursts,
    "motif": _motif,
}
