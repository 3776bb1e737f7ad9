"""Compares a model with PyTorch on inputs at the ends of their range: all black, all white, constant, saturated.

A network that divides by a sum or a deviation often meets its smallest divisor there.

Requires: a model that agrees with PyTorch on the probe inputs, its layer map, and the network that the user passed.
Ensures: where PyTorch's outputs and layers are finite, the model's are; where PyTorch's float32 is reliable, both
agree.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
from torch import nn

from export.arrays import Array
from export.errors import ParityError, UnsupportedNetworkError
from export.interface.interface import Inputs, Interface
from export.reference.expected import ReferencePair, TorchRun
from export.reference.tolerance import Agreement, Reference
from export.tracing.lane_sums import LaneSummation, SumDetector
from export.tracing.run import NetworkOutput, cpu_copy, run_in_float64, run_traced
from export.verify.model_runner import ModelRun, ModelRunner
from protos import manifest

Select = Callable[[ReferencePair], Reference]  # the reference of an output, or of a layer


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


def check_extremes(
    runner: ModelRunner, layer_map: manifest.LayerMap, network: nn.Module, interface: Interface
) -> list[ExtremeCheck]:
    """Compare the model of `runner` with `network` on each extreme input by itself. Raises: ParityError."""
    original = cpu_copy(network)
    extremes = [_Extreme(original, interface, kind, inputs) for kind, inputs in interface.extreme_inputs().items()]
    checks: list[ExtremeCheck] = []
    for extreme in extremes:
        checks += _check(runner, layer_map, extreme, extremes)
    return checks


def check_out_of_range(
    runner: ModelRunner, layer_map: manifest.LayerMap, network: nn.Module, interface: Interface
) -> None:
    """Compare the model of `runner` with `network` on inputs far outside the usual range, where `network` accepts them.

    Raises: ParityError.
    """
    original = cpu_copy(network)
    inputs = interface.out_of_range_inputs()
    for index in range(len(next(iter(inputs.values())))):
        row = {name: array[index : index + 1] for name, array in inputs.items()}
        extreme = _Extreme(original, interface, "far out of the usual range", row)
        with contextlib.suppress(UnsupportedNetworkError):
            _check(runner, layer_map, extreme, [extreme])


def _check(
    runner: ModelRunner, layer_map: manifest.LayerMap, extreme: "_Extreme", extremes: "Sequence[_Extreme]"
) -> list[ExtremeCheck]:
    """Compare on one input; `extremes` are all that are compared."""
    model_run = runner.run(extreme.inputs)
    checks = list(_check_outputs(model_run, extreme, extremes))
    _check_layers(model_run, extreme, extremes, layer_map)
    extreme.forget_layers()
    return checks


def _check_outputs(model_run: ModelRun, extreme: "_Extreme", extremes: "Sequence[_Extreme]") -> Iterator[ExtremeCheck]:
    for name in extreme.float32.outputs:
        select = partial(ReferencePair.output, name=name)
        pooled_error = partial(_pooled_output_error, extremes, name)
        agreement, is_unreliable = extreme.compare(f"'{name}'", select, model_run.outputs[name], pooled_error)
        yield ExtremeCheck(extreme.kind, name, agreement, is_unreliable)


def _check_layers(
    model_run: ModelRun, extreme: "_Extreme", extremes: "Sequence[_Extreme]", layer_map: manifest.LayerMap
) -> None:
    """Compare each layer that the network has as it was passed; layers that share a tensor are compared once."""
    compared: set[object] = set()
    for layer in layer_map.layers:
        record = extreme.float32.layers.get(layer.name)
        if record is None or not layer.value or (layer.value, record.identity) in compared:
            continue
        compared.add((layer.value, record.identity))
        array = model_run.values[layer.value]
        if record.value.shape == array.shape:
            select = partial(ReferencePair.layer, name=layer.name)
            pooled_error = partial(_pooled_error, extremes, select)
            extreme.compare(f"layer '{layer.name}' ({layer.kind})", select, array, pooled_error)


def _pooled_output_error(extremes: "Sequence[_Extreme]", name: str) -> float:
    """Return the error of an output, which is at least what the error of the output that it is derived from causes."""
    error = _pooled_error(extremes, partial(ReferencePair.output, name=name))
    source = extremes[0].interface.derived_outputs.get(name)
    return max(error, source.sensitivity * _pooled_output_error(extremes, source.name)) if source else error


def _pooled_error(extremes: "Sequence[_Extreme]", select: Select) -> float:
    """Return PyTorch's largest reliable float32 error: that of one input with few values may be small by chance."""
    references = [select(extreme.precise) for extreme in extremes]
    return max((reference.error for reference in references if not reference.unreliable_rows(1)), default=0.0)


class _Extreme:
    """PyTorch's results for one input; float64 is run only where the model differs by more than float32's rounding."""

    def __init__(self, network: nn.Module, interface: Interface, kind: str, inputs: Inputs) -> None:
        self.kind, self.inputs, self.interface = kind, inputs, interface
        self._network = network
        self._sums = SumDetector()

    def compare(
        self, what: str, select: Select, array: Array, least_error: Callable[[], float]
    ) -> tuple[Agreement, bool]:
        """Compare the values that are finite in PyTorch; return whether float32 is unreliable, too.

        Raises: ParityError.
        """
        reference = select(ReferencePair(self.float32, self.float32, None, self.interface.derived_outputs))
        array = self._finite(what, reference.float32, array)
        agreement = reference.agreement(array)
        if agreement.holds:
            return agreement, False
        reference = select(self.precise)
        agreement = reference.agreement(array)
        if agreement.holds or reference.unreliable_rows(1):
            return agreement, not agreement.holds
        agreement = reference.agreement(array, least_error())
        if not agreement.holds:
            raise ParityError(
                f"on an input that is {self.kind}, the ONNX model's {what} differs from PyTorch: largest difference "
                f"{agreement.max_abs_error:.3g}, tolerance {agreement.tolerance:.3g} (PyTorch's own float32 error is "
                f"{agreement.reference_error:.3g}); nothing was written."
            )
        return agreement, False

    def _finite(self, what: str, expected: Array, array: Array) -> Array:
        """Return `array` with PyTorch's values where these are not finite. Raises: ParityError."""
        finite = np.isfinite(expected)
        if not np.isfinite(array[finite]).all():
            raise ParityError(
                f"on an input that is {self.kind}, the ONNX model's {what} is not finite, but PyTorch's is; nothing "
                "was written. A small constant, such as an epsilon in a division, may have been lost."
            )
        return np.where(finite, array, expected)

    def forget_layers(self) -> None:
        """Free the layers of all runs, which can take gigabytes."""
        for name in ("float32", "precise"):
            vars(self).pop(name, None)

    @cached_property
    def float32(self) -> TorchRun:
        """The results in float32. Raises: UnsupportedNetworkError."""
        return self._run(run_traced)

    @cached_property
    def precise(self) -> ReferencePair:
        """The results in float32 and float64. Raises: UnsupportedNetworkError."""
        with self._sums:
            float64 = self._run(run_in_float64)
        if not self._sums.detected:
            return ReferencePair(self.float32, float64, None, self.interface.derived_outputs)
        with LaneSummation():
            return ReferencePair(self.float32, float64, self._run(run_traced), self.interface.derived_outputs)

    def _run(self, run: Callable[..., tuple[NetworkOutput, Any]]) -> TorchRun:
        network_output, layers = run(self._network, self.interface.arguments(self.inputs))
        outputs = self.interface.model_outputs(network_output)
        return TorchRun({name: value.detach().clone() for name, value in outputs.items()}, layers)
