"""PyTorch's float32 results for one batch, with the tolerances that follow from its float64 results.

float64 is compared with float32 layer by layer while it runs, and not kept: the results of all layers can take
gigabytes.

Requires: a network, an interface of the model made from it, and arguments of the network.
Ensures: every layer that float32 calls has a tolerance.
"""

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

from torch import Tensor, nn

from export.arrays import Array
from export.errors import UnsupportedNetworkError
from export.interface.interface import Interface
from export.reference.tolerance import FLOOR, Reference
from export.tracing.arguments import Arguments
from export.tracing.lane_sums import LaneSummation, SumDetector
from export.tracing.run import Layers, run_in_float64, run_traced
from export.tracing.trace import Identity, TensorRecord

LAYER_FLOOR = 2e-5  # larger than FLOOR, because cancellation in a layer can increase the relative error

Values = TypeVar("Values", Tensor, Array)


@dataclass(frozen=True)
class TorchRun:
    """The results of one run in PyTorch.

    Attributes:
        outputs: The expected outputs of the model.
        layers: The output of each layer, in the order in which the calls return.
        has_large_sums: Whether the network sums many values, so that the order of summation matters.
    """

    outputs: Mapping[str, Tensor]
    layers: Layers
    has_large_sums: bool = False

    def first_rows(self, batch: int, count: int) -> "TorchRun":
        """Return the results for the first `batch` of `count` inputs; tensors without a row per input are unchanged."""
        outputs = {name: _first_rows(value, batch, count) for name, value in self.outputs.items()}
        layers = {
            name: replace(record, value=_first_rows(record.value, batch, count)) for name, record in self.layers.items()
        }
        return replace(self, outputs=outputs, layers=layers)


class ReferencePair:
    """One batch in float32, and the tolerances that follow from its float64 results, which are not kept."""

    def __init__(
        self, float32: TorchRun, layers: Mapping[Identity, Reference], outputs: Mapping[str, Reference]
    ) -> None:
        self.float32, self._layers, self._outputs = float32, layers, outputs

    def unreliable_rows(self, count: int) -> set[int]:
        """Return the indices of those of `count` inputs for which the float32 error of a layer is too large."""
        return {row for reference in self._layers.values() for row in reference.unreliable_rows(count)}

    def layer(self, name: str) -> Reference:
        """Return the reference of a layer's output; layers that return the same tensor share one."""
        return self._layers[self.float32.layers[name].identity]

    def output(self, name: str) -> Reference:
        """Return the reference of an output of the model."""
        return self._outputs[name]


def run_float32(network: nn.Module, interface: Interface, arguments: Arguments) -> TorchRun:
    """Run the network in float32 with its layers. Raises: UnsupportedNetworkError."""
    with SumDetector() as sums:
        network_output, layers = run_traced(network, arguments)
    return TorchRun(outputs_of(interface, network_output), layers, sums.detected)


def reference_pairs(
    network: nn.Module, interface: Interface, arguments: Arguments, float32: TorchRun, rows: Sequence[int]
) -> dict[int, ReferencePair]:
    """Run the network in float64, and return the references for the first `rows` inputs; the last of `rows` is all.

    Raises: UnsupportedNetworkError.
    """
    with LaneSummation() if float32.has_large_sums else contextlib.nullcontext():
        lanes = run_float32(network, interface, arguments) if float32.has_large_sums else None
    builder = _PairBuilder(interface, float32, lanes, rows)
    network_output = run_in_float64(network, arguments, builder.consume)
    return builder.pairs(outputs_of(interface, network_output))


def outputs_of(interface: Interface, network_output: Any) -> Mapping[str, Tensor]:
    """Return copies of the model's outputs: a network may return a buffer that it overwrites later."""
    return {name: value.detach().clone() for name, value in interface.model_outputs(network_output).items()}


def output_reference(
    interface: Interface, name: str, float32: Mapping[str, Array], float64: Mapping[str, Array], lanes: Any = None
) -> Reference:
    """Return the reference of an output of the model.

    An output that is derived from another one may differ by what that one's tolerance causes.
    """
    source = interface.derived_outputs.get(name)
    least = 0.0
    if source:
        least = source.sensitivity * output_reference(interface, source.name, float32, float64, lanes).tolerance
    return Reference(float32[name], float64[name], FLOOR, lanes[name] if lanes else None, least)


class _PairBuilder:
    """Derives the tolerances of the first rows of one batch, layer by layer, while float64 runs.

    `lanes` is float32 with sums in lanes, for networks with large sums.
    """

    def __init__(self, interface: Interface, float32: TorchRun, lanes: TorchRun | None, rows: Sequence[int]) -> None:
        self._interface, self._float32, self._lanes, self._rows = interface, float32, lanes, rows
        self._layers: dict[int, dict[Identity, Reference]] = {count: {} for count in rows}

    def consume(self, float64: TensorRecord) -> None:
        """Derive the tolerances of a layer from its float64 values."""
        record = self._float32.layers.get(float64.name)
        if record is None or record.identity in self._layers[self._rows[0]]:
            return
        lanes = self._lanes.layers[record.name].value if self._lanes else None
        for rows, references in self._layers.items():
            first = partial(_first_rows, batch=rows, count=self._rows[-1])
            first_lanes = None if lanes is None else first(lanes)
            references[record.identity] = Reference(first(record.value), first(float64.value), LAYER_FLOOR, first_lanes)

    def pairs(self, outputs: Mapping[str, Tensor]) -> dict[int, ReferencePair]:
        """Return the pairs by their number of rows; `outputs` are those in float64.

        Raises: UnsupportedNetworkError where float64 did not call a layer.
        """
        for name, record in self._float32.layers.items():
            if record.identity not in self._layers[self._rows[0]]:
                raise UnsupportedNetworkError(
                    f"the layer '{name}' is called in float32, but not in float64 or not for every batch: a model file "
                    "calls the same layers for all inputs. Remove the condition from the network's forward."
                )
        return {rows: self._pair(rows, references, outputs) for rows, references in self._layers.items()}

    def _pair(self, rows: int, layers: Mapping[Identity, Reference], float64: Mapping[str, Tensor]) -> ReferencePair:
        def first(outputs: Mapping[str, Tensor]) -> dict[str, Array]:
            return {name: _first_rows(value, rows, self._rows[-1]).numpy() for name, value in outputs.items()}

        results = (first(self._float32.outputs), first(float64), first(self._lanes.outputs) if self._lanes else None)
        outputs = {name: output_reference(self._interface, name, *results) for name in float64}
        return ReferencePair(self._float32.first_rows(rows, self._rows[-1]), layers, outputs)


def _first_rows(values: Values, batch: int, count: int) -> Values:
    """Return the rows of the first `batch` of `count` inputs, if each input has the same number of rows."""
    if values.ndim == 0 or len(values) % count:
        return values
    return values[: len(values) // count * batch]
