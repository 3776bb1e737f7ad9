"""The built-in dataset `signal`: synthetic signals of six kinds, generated from one seed without any file or download.

A kind's characteristic shape appears anywhere in the signal, at any phase and under noise: the case for shared weights.
"""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch

from zoo.data.dataset import Dataset
from zoo.data.splits import MemorySplit
from zoo.networks.preprocessing import Preprocessing
from zoo.settings import SplitName

LENGTH = 128
NOISE = 0.3  # standard deviation; the signals range from -1 to 1
MOTIF = np.array([0.2, 0.9, 1.0, 0.3, -0.8, -1.0, -0.4, 0.6, 0.9, 0.1, -0.5, -0.2])
RANGE = 2.0  # -RANGE becomes the byte 0, RANGE becomes 255

# The splits have their own seeds, so a run's seed never moves a signal from one split to another.
SIGNALS_PER_KIND = {"train": 150, "val": 25, "test": 60}
SPLIT_SEEDS = {"train": 1, "val": 2, "test": 3}

Signal = npt.NDArray[np.float64]


def open_signal(*_: object) -> Dataset:
    """Return the dataset: 1,410 signals of length 128, each an image of height 1."""

    def split(name: SplitName) -> MemorySplit:
        signals, kinds = generate(SIGNALS_PER_KIND[name], SPLIT_SEEDS[name])
        return MemorySplit(torch.from_numpy(signals[:, np.newaxis, :, np.newaxis]), torch.from_numpy(kinds))

    return Dataset(
        name="signal",
        labels=tuple(KINDS),
        preprocessing=Preprocessing(input_size=(1, 1, LENGTH), mean=(0.501,), std=(0.15,)),
        train=split("train"),
        val=split("val"),
        test=split("test"),
        caveat="The signals are synthetic, so this accuracy does not apply to measured signals.",
    )


def generate(per_kind: int, seed: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Generate noisy signals and the index of each one's kind in KINDS, sorted by kind.

    The signals are uint8 (N, LENGTH), where 127.5 represents 0.
    """
    rng = np.random.default_rng(seed)
    clean = [rng.uniform(0.6, 1.0) * kind(rng) for kind in KINDS.values() for _ in range(per_kind)]
    noisy = np.stack(clean) + rng.normal(0.0, NOISE, (len(clean), LENGTH))
    scaled = (np.clip(noisy, -RANGE, RANGE) / RANGE + 1) * 127.5
    return np.rint(scaled).astype(np.uint8), np.repeat(np.arange(len(KINDS)), per_kind)


def _phase(rng: np.random.Generator) -> Signal:
    """Return a phase in cycles that increases at a constant random rate from a random start."""
    return rng.uniform(3, 10) * np.linspace(0, 1, LENGTH) + rng.uniform()


def _sine(rng: np.random.Generator) -> Signal:
    return np.sin(2 * np.pi * _phase(rng))


def _square(rng: np.random.Generator) -> Signal:
    return np.where(_phase(rng) % 1 < 0.5, 1.0, -1.0)


def _sawtooth(rng: np.random.Generator) -> Signal:
    return 2 * (_phase(rng) % 1) - 1


def _chirp(rng: np.random.Generator) -> Signal:
    """Return a sine whose frequency increases two- to fivefold from start to end."""
    time, start = np.linspace(0, 1, LENGTH), rng.uniform(2, 5)
    growth = start * rng.uniform(1, 4)
    return np.sin(2 * np.pi * (start * time + growth * time**2 / 2 + rng.uniform()))


def _bursts(rng: np.random.Generator) -> Signal:
    """Return two or three intervals of strong noise."""
    signal = np.zeros(LENGTH)
    for _ in range(rng.integers(2, 4)):
        length = rng.integers(10, 25)
        start = rng.integers(0, LENGTH - length)
        signal[start : start + length] = rng.uniform(-1, 1, length)
    return signal


def _motif(rng: np.random.Generator) -> Signal:
    """Return two to four copies of MOTIF at random positions without overlap."""
    signal = np.zeros(LENGTH)
    slots = rng.choice(LENGTH // len(MOTIF) - 1, size=rng.integers(2, 5), replace=False)
    for slot in slots:
        start = slot * len(MOTIF) + rng.integers(0, len(MOTIF))
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
