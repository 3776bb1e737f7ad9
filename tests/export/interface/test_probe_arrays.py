"""Test inputs of every datatype and shape."""

import numpy as np
import pytest

from export.arrays import Array
from export.input_spec import InputSpec
from export.interface import probe_arrays

SPECS = [
    InputSpec((3, 8, 8)),
    InputSpec(()),
    InputSpec((5,), "float32", (0.1, 2)),
    InputSpec((16,), "int64", (3, 49)),
    InputSpec((4, 4), "int32"),
    InputSpec((2, 3, 3), "uint8"),
    InputSpec((7,), "bool"),
    InputSpec((), "bool"),
]


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_values(spec: InputSpec) -> None:
    """All test inputs have the input's shape and datatype, and are within its limits."""
    arrays = [
        (probe_arrays.noise(spec, 4, np.random.default_rng(0)), 4),
        (probe_arrays.probes(spec, np.random.default_rng(0)), 5),
        (probe_arrays.out_of_range(spec, np.random.default_rng(0)), 3),
        (probe_arrays.example(spec, 2), 2),
        *((array, 1) for array in probe_arrays.extremes(spec, np.random.default_rng(0)).values()),
    ]
    for array, rows in arrays:
        assert (array.shape, array.dtype) == ((rows, *spec.shape), np.dtype(spec.dtype))
        low, high = spec.bounds or (-np.inf, np.inf)
        assert np.all((np.float32(low) <= array) & (array <= np.float32(high)))


def test_both_limits() -> None:
    """Each row of integers has the smallest and the largest value, so that no mask is empty and all rows of a table."""
    for spec in (InputSpec((16,), "int64", (0, 29999)), InputSpec((2, 2), "bool")):
        rows: Array = probe_arrays.noise(spec, 50, np.random.default_rng(0)).reshape(50, -1)
        assert set(rows.min(1)) == {spec.bounds[0] if spec.bounds else None}
        assert set(rows.max(1)) == {spec.bounds[1] if spec.bounds else None}
        assert rows[2].any()


def test_ends_of_the_limits() -> None:
    """The extreme inputs include both limits."""
    extremes = probe_arrays.extremes(InputSpec((3,), "float32", (0.5, 4)), np.random.default_rng(0))
    assert {kind: float(array[0, 0]) for kind, array in extremes.items() if kind != "saturated"} == {
        "zeros": 0.5,
        "ones": 1.0,
        "constant": 2.25,
        "lowest": 0.5,
        "highest": 4.0,
    }
