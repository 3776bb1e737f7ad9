"""Compares a model with PyTorch on inputs at the ends of their range: all black, all white, constant, saturated.

A network that divides by a sum or a deviation often meets its smallest divisor there.

Requires: a model that agrees with PyTorch on the probe inputs, and the network that the user passed.
Ensures: where PyTorch's output is finite, the model's is; where PyTorch's float32 is reliable, both agree.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import onnx
from torch import nn

from export.arrays import Array
from export.errors import ParityError
from export.interface.interface import Inputs, Interface
from export.onnx_model.runtime import Runtime
from export.reference.tolerance import Agreement, Reference
from export.tracing.arguments import Arguments
from export.tracing.lane_sums import LaneSummation, NormDetector
from export.tracing.run import cpu_copy, run, run_in_float64


@dataclass(frozen=True)
class ExtremeCheck:
    """The comparison of one output on one input.

    Attributes:
        input_kind: What the input is, such as "white".
        output: The output's name.
        agreement: The result, of the values that are finite in PyTorch.
        is_unreliable: Whether PyTorch's own float32 is too inexact to compare with: then only finiteness is required.
    """

    input_kind: str
    output: str
    agreement: Agreement
    is_unreliable: bool


def check_extremes(model: onnx.ModelProto, network: nn.Module, interface: Interface) -> list[ExtremeCheck]:
    """Compare `model` with `network` on each extreme input by itself. Raises: ParityError."""
    runtime, original = Runtime(model), cpu_copy(network)
    return [
        check
        for kind, inputs in interface.extreme_inputs().items()
        for check in _check(kind, runtime.run(inputs), _Extreme(original, interface, inputs))
    ]


def _check(kind: str, outputs: Mapping[str, Array], extreme: "_Extreme") -> Iterator[ExtremeCheck]:
    for name, expected in extreme.float32.items():
        finite = np.isfinite(expected)
        if not np.isfinite(outputs[name][finite]).all():
            raise ParityError(
                f"on an input that is {kind}, the ONNX model's '{name}' is not finite, but PyTorch's is; nothing was "
                "written. A small constant, such as an epsilon in a division, may have been lost."
            )
        agreement, is_unreliable = extreme.compare(name, outputs[name], finite)
        if not (agreement.holds or is_unreliable):
            raise ParityError(
                f"on an input that is {kind}, the ONNX model's '{name}' differs from PyTorch: largest difference "
                f"{agreement.max_abs_error:.3g}, tolerance {agreement.tolerance:.3g} (PyTorch's own float32 error is "
                f"{agreement.reference_error:.3g}); nothing was written."
            )
        yield ExtremeCheck(kind, name, agreement, is_unreliable)


class _Extreme:
    """PyTorch's outputs for one input; float64 is run only where the model differs by more than float32's rounding."""

    def __init__(self, network: nn.Module, interface: Interface, inputs: Inputs) -> None:
        self._network, self._interface, self._inputs = network, interface, inputs
        self.float32 = self._outputs(run(network, self._arguments))

    def compare(self, name: str, output: Array, finite: Array) -> tuple[Agreement, bool]:
        """Compare the finite values of one output; return whether float32 is unreliable, too."""
        expected = self.float32[name]
        agreement = Reference(expected[finite], expected[finite]).agreement(output[finite])
        if agreement.holds:
            return agreement, False
        float64, lanes = self._precise[name], self._lanes[name] if self._lanes else None
        reference = Reference(expected[finite], float64[finite], lanes=None if lanes is None else lanes[finite])
        unreliable = Reference(expected, float64, lanes=lanes).unreliable_rows(1)
        return reference.agreement(output[finite]), bool(unreliable)

    @property
    def _arguments(self) -> Arguments:
        """New tensors for each run: a network may write to its input."""
        return self._interface.arguments(self._inputs)

    @cached_property
    def _norms(self) -> NormDetector:
        return NormDetector()

    @cached_property
    def _precise(self) -> Mapping[str, Array]:
        with self._norms:
            return self._outputs(run_in_float64(self._network, self._arguments)[0])

    @cached_property
    def _lanes(self) -> Mapping[str, Array] | None:
        if not self._norms.detected:
            return None
        with LaneSummation():
            return self._outputs(run(self._network, self._arguments))

    def _outputs(self, network_output: object) -> Mapping[str, Array]:
        return {
            name: value.detach().clone().numpy()
            for name, value in self._interface.model_outputs(network_output).items()
        }
