"""Test inputs of a network's own tensors, for comparing a model with PyTorch; the same in every run."""

from math import prod

import numpy as np

from export.arrays import Array
from export.input_spec import InputSpec

CONSTANTS = {"zeros": 0.0, "ones": 1.0, "constant": -0.5}
SATURATED = "saturated"
KINDS = (*CONSTANTS, SATURATED)
ENDS = ("lowest", "highest")
OUT_OF_RANGE_SCALES = (10, 1e3, 1e6)
RAMP_LIMITS = (-2.0, 2.0)  # of normally distributed values


def noise(spec: InputSpec, batch: int, random: np.random.Generator) -> Array:
    """Return random values within the input's limits; a row of integers or booleans has both limits among them."""
    shape = (batch, *spec.shape)
    if spec.bounds is None:
        return random.standard_normal(shape, np.float32)
    low, high = spec.bounds
    if spec.is_float:
        return np.clip(random.uniform(low, high, shape).astype(np.float32), low, high)
    values = random.integers(int(low), int(high), shape, endpoint=True)
    rows = values.reshape(batch, -1)
    if rows.shape[1] > 1:
        rows[:, 0], rows[:, -1] = high, low
    return values.astype(spec.dtype)


def probes(spec: InputSpec, random: np.random.Generator) -> Array:
    """Return five inputs: two of noise, zeros, one that is half ones, and a ramp.

    With limits, these are the largest value and the others follow. Integers and booleans, which may be a mask that must
    not be empty, are noise instead of zeros.
    """
    first = noise(spec, 2, random)
    plane = spec.shape[-2:]
    inputs = np.concatenate([first, np.zeros((3, *spec.shape), first.dtype)])
    inputs[2] = _nearest(spec, 0.0) if spec.is_float else noise(spec, 1, random)[0]
    low, high = spec.bounds or (0.0, 1.0)
    inputs[3] = low if plane else high
    if plane:
        inputs[3, ..., : (plane[-1] + 1) // 2] = high
    inputs[4] = np.linspace(*(spec.bounds or RAMP_LIMITS), prod(plane)).astype(first.dtype).reshape(plane)
    return inputs


def out_of_range(spec: InputSpec, random: np.random.Generator) -> Array:
    """Return noise at three scales: if the largest overflows, the others still distinguish values.

    Inputs with limits stay within them: a token that does not exist has no results.
    """
    values = noise(spec, len(OUT_OF_RANGE_SCALES), random)
    if spec.bounds is not None:
        return values
    return values * np.array(OUT_OF_RANGE_SCALES, np.float32).reshape(-1, *[1] * len(spec.shape))


def extremes(spec: InputSpec, random: np.random.Generator) -> dict[str, Array]:
    """Return zeros, ones, a constant and noise of the two limits (-1 and 1 without limits), then each limit."""
    values = noise(spec, 1, random)
    if spec.bounds is None:
        constants = {kind: _full(spec, value) for kind, value in CONSTANTS.items()}
        return {**constants, SATURATED: np.sign(values), **dict.fromkeys(ENDS, values)}
    low, high = spec.bounds
    middle = (low + high) / 2
    filled = (_nearest(spec, 0.0), _nearest(spec, 1.0), middle, low, high)
    saturated = np.where(values > middle, high, low).astype(spec.dtype)
    constants = {kind: _full(spec, value) for kind, value in zip((*CONSTANTS, *ENDS), filled, strict=True)}
    return {**constants, SATURATED: saturated}


def example(spec: InputSpec, batch: int) -> Array:
    """Return zeros, or the value nearest to zero within the limits."""
    return np.repeat(_full(spec, _nearest(spec, 0.0)), batch, axis=0)


def _full(spec: InputSpec, value: float) -> Array:
    return np.full((1, *spec.shape), value, spec.dtype)


def _nearest(spec: InputSpec, value: float) -> float:
    """Return the value nearest to `value` within the limits."""
    low, high = spec.bounds or (value, value)
    return min(max(value, low), high)
