"""Compares a model with PyTorch on inputs at the ends of their range: all black, all white, constant, saturated.

A network that divides by a sum or a deviation often meets its smallest divisor there.

Requires: a model that agrees with PyTorch on the probe inputs, its layer map, and the network that the user passed.
Ensures: where PyTorch's outputs and layers are finite, the model's are; where PyTorch's float32 is reliable, both
agree.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from operator import methodcaller
from typing import Protocol

import numpy as np
from torch import nn

from export.arrays import Array
from export.errors import ParityError, UnsupportedNetworkError
from export.interface.interface import Inputs, Interface
from export.reference.pairs import (
    LAYER_FLOOR,
    ReferencePair,
    TorchRun,
    output_reference,
    reference_pairs,
    run_float32,
)
from export.reference.tolerance import Agreement, Reference
from export.tracing.run import Layers, cpu_copy
from export.verify.model_runner import ModelRunner
from protos import manifest


class References(Protocol):
    """PyTorch's results for one input."""

    def layer(self, name: str, /) -> Reference:
        """Return the reference of a layer's output."""

    def output(self, name: str, /) -> Reference:
        """Return the reference of an output of the model."""


Select = Callable[[References], Reference]  # the reference of an output, or of a layer


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
    checks = list(_check_outputs(runner.outputs(extreme.inputs), extreme, extremes))
    _check_layers(runner.values(extreme.inputs), extreme, extremes, layer_map)
    extreme.forget_layers()
    return checks


def _check_outputs(
    served: Mapping[str, Array], extreme: "_Extreme", extremes: "Sequence[_Extreme]"
) -> Iterator[ExtremeCheck]:
    for name in extreme.float32.outputs:
        select = methodcaller("output", name)
        pooled_error = partial(_pooled_output_error, extremes, name)
        agreement, is_unreliable = extreme.compare(f"'{name}'", select, served[name], pooled_error)
        yield ExtremeCheck(extreme.kind, name, agreement, is_unreliable)


def _check_layers(
    stages: Iterable[Mapping[str, Array]],
    extreme: "_Extreme",
    extremes: "Sequence[_Extreme]",
    layer_map: manifest.LayerMap,
) -> None:
    """Compare each layer that the network has as it was passed, as its value is computed."""
    layers = _layers_to_compare(extreme.float32.layers, layer_map)
    for values in stages:
        for layer in (layer for layer in layers if layer.value in values):
            array = values[layer.value]
            if extreme.float32.layers[layer.name].value.shape == array.shape:
                select = methodcaller("layer", layer.name)
                pooled_error = partial(_pooled_error, extremes, select)
                extreme.compare(f"layer '{layer.name}' ({layer.kind})", select, array, pooled_error)


def _layers_to_compare(layers: Layers, layer_map: manifest.LayerMap) -> list[manifest.Layer]:
    """Return the layers that are in the model and in the network; of those that share both tensors, one."""
    by_tensors: dict[object, manifest.Layer] = {}
    for layer in layer_map.layers:
        if layer.value and layer.name in layers:
            by_tensors.setdefault((layer.value, layers[layer.name].identity), layer)
    return list(by_tensors.values())


def _pooled_output_error(extremes: "Sequence[_Extreme]", name: str) -> float:
    """Return the error of an output, which is at least what the error of the output that it is derived from causes."""
    error = _pooled_error(extremes, methodcaller("output", name))
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

    def compare(
        self, what: str, select: Select, array: Array, least_error: Callable[[], float]
    ) -> tuple[Agreement, bool]:
        """Compare the values that are finite in PyTorch; return whether float32 is unreliable, too.

        Raises: ParityError.
        """
        reference = select(_Float32References(self.interface, self.float32))
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
        return run_float32(self._network, self.interface, self.interface.arguments(self.inputs))

    @cached_property
    def precise(self) -> ReferencePair:
        """The results in float32, with tolerances that follow from float64. Raises: UnsupportedNetworkError."""
        arguments = self.interface.arguments(self.inputs)
        return reference_pairs(self._network, self.interface, arguments, self.float32, [1])[1]


class _Float32References:
    """References as those of a ReferencePair, as if float32 were exact."""

    def __init__(self, interface: Interface, float32: TorchRun) -> None:
        self._interface, self._float32 = interface, float32

    def layer(self, name: str) -> Reference:
        value = self._float32.layers[name].value
        return Reference(value, value, LAYER_FLOOR)

    def output(self, name: str) -> Reference:
        outputs = {output: value.numpy() for output, value in self._float32.outputs.items()}
        return output_reference(self._interface, name, outputs, outputs)
