"""Tells whether two computations of the same thing agree.

The measure is PyTorch itself: its float32 result lies some distance from its own float64 result, and a faithful
conversion lies about as far. So the tolerance is a small multiple of that distance, with a floor for values where
float32 happens to be exact and a ceiling where it is hopeless, both relative to the values' size. Where a result is
infinite or NaN, both must be.

Ensures: every output agrees with PyTorch at every batch size of BATCHES, or ParityError says which does not.
"""

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
from torch import nn

from export.errors import ParityError
from export.interface import Interface, arrays
from export.runtime import Runtime

BATCHES = (1, 2, 3, 5)
CEILING = 1e-2  # of the largest magnitude: a net whose own float32 is worse than that cannot be compared
NOISE_MULTIPLE = 10.0  # measured: onnxruntime lies at 0.7 to 2.3 times PyTorch's own noise
FLOOR = 4e-6  # of the largest magnitude: 32 units in float32's last place

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


@dataclass(frozen=True)
class Check:
    """One output at one batch size."""

    batch: int
    output: str
    agreement: Agreement


def compare(got: Array, expected: Array, exact: Array, floor: float = FLOOR) -> Agreement:
    """Compare `got` with PyTorch's float32 `expected` and float64 `exact`, all of one shape.

    `floor` is the least tolerance, as a share of the largest magnitude.
    """
    known = np.isfinite(expected) & np.isfinite(exact)
    reference_error = distance(expected[known], exact[known])
    scale = float(np.max(np.abs(expected[known]), initial=0.0))
    tolerance = min(max(NOISE_MULTIPLE * reference_error, floor * scale), CEILING * scale)
    return Agreement(_rounded(distance(got, expected)), _rounded(reference_error), _rounded(tolerance))


def distance(a: Array, b: Array) -> float:
    """Return the largest absolute difference; infinite where one is NaN and the other not, or the shapes differ."""
    if a.shape != b.shape:
        return float("inf")
    left, right = np.asarray(a, np.float64), np.asarray(b, np.float64)
    same = (left == right) | (np.isnan(left) & np.isnan(right))
    with np.errstate(invalid="ignore"):  # infinity minus infinity: told apart by `same`
        difference = np.nan_to_num(np.abs(left - right), nan=np.inf, posinf=np.inf)
    return float(np.max(difference, initial=0.0, where=~same))


def check_outputs(model: onnx.ModelProto, net: nn.Module, interface: Interface) -> list[Check]:
    """Run `model` beside `net` on random inputs. Raises: ParityError."""
    runtime = Runtime(model)
    double = copy.deepcopy(net).double()
    checks = [
        check for batch in BATCHES for check in _check_batch(runtime, net, double, interface, interface.noise(batch))
    ]
    for check in checks:
        if not check.agreement.holds:
            raise ParityError(_failure(check))
    return checks


def torch_outputs(net: nn.Module, inputs: Array, interface: Interface) -> dict[str, Array]:
    """Return what PyTorch gives for the model's outputs, in the precision of `net`."""
    dtype = next((p.dtype for p in net.parameters()), torch.float32)
    with torch.no_grad():
        return arrays(interface.outputs(net(interface.for_net(inputs, dtype))))


def _check_batch(
    runtime: Runtime, net: nn.Module, double: nn.Module, interface: Interface, inputs: Array
) -> Iterator[Check]:
    got = runtime.run({interface.input_name: inputs})
    expected, exact = (torch_outputs(each, inputs, interface) for each in (net, double))
    for output in sorted(expected):
        yield Check(len(inputs), output, compare(got[output], expected[output], exact[output]))


def _failure(check: Check) -> str:
    found = check.agreement
    return (
        f"the ONNX model's '{check.output}' departs from PyTorch at batch {check.batch}: largest difference "
        f"{found.max_abs_error:.3g}, allowed {found.tolerance:.3g} (PyTorch's own float32 error is "
        f"{found.reference_error:.3g}); nothing was written."
    )


def _rounded(value: float) -> float:
    """Three digits: what a reader needs, and the same in every run."""
    return float(f"{value:.2e}")
