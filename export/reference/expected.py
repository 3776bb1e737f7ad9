"""Runs PyTorch on the probe inputs, as few times as the comparisons need.

All probe inputs are run once in float32 and once in float64. These runs identify the layers, and all numbers are
compared with them. If the rows of a batch are independent, the network's results for a smaller batch are the first rows
of its results for the largest one, so that smaller batches need no separate runs.

Requires: a prepared network, and the interface of the model made from it.
Ensures: rows are used for a smaller batch only if PyTorch, run on a second batch, returns the same rows at every layer.
If the model does not match the rows, the smaller batch can still be run separately.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, TypeVar

from torch import Tensor, nn

from export.arrays import Array
from export.errors import UnsupportedNetworkError
from export.interface.interface import NOISE, PROBE_KINDS, Derived, Inputs, Interface
from export.reference.tolerance import Reference
from export.tracing.arguments import Arguments
from export.tracing.lane_sums import LaneSummation, SumDetector
from export.tracing.run import Layers, NetworkOutput, run, run_in_float64, run_traced
from export.tracing.trace import Identity, TensorRecord

SMALL_BATCH = 2  # the second batch, which shows whether rows are independent
SINGLE_ROW = slice(3, 4)  # the half white input: its mean is not 0, and no earlier input has larger values
LAYER_FLOOR = 2e-5  # larger than FLOOR, because cancellation in a layer can increase the relative error

Values = TypeVar("Values", Tensor, Array)
RunNetwork = Callable[[nn.Module, Arguments], tuple[NetworkOutput, Layers]]


@dataclass(frozen=True)
class TorchRun:
    """The results of one run in PyTorch.

    Attributes:
        outputs: The expected outputs of the model.
        layers: The output of each layer, in the order in which the calls return.
    """

    outputs: Mapping[str, Tensor]
    layers: Layers

    def first_rows(self, batch: int, count: int) -> "TorchRun":
        """Return the results for the first `batch` of `count` inputs; tensors without a row per input are unchanged."""
        outputs = {name: _first_rows(value, batch, count) for name, value in self.outputs.items()}
        layers = {
            name: replace(record, value=_first_rows(record.value, batch, count)) for name, record in self.layers.items()
        }
        return TorchRun(outputs, layers)


class ReferencePair:
    """One batch in float32 and in float64; `lanes` is float32 with sums in lanes, for networks with large sums."""

    def __init__(
        self, float32: TorchRun, float64: TorchRun, lanes: TorchRun | None, derived: Mapping[str, Derived]
    ) -> None:
        """`derived` has the outputs that the model computes from other ones (see `Interface.derived_outputs`)."""
        self.float32, self.float64, self.lanes = float32, float64, lanes
        self._derived = derived
        self._references: dict[Identity, Reference] = {}

    def first_rows(self, batch: int, count: int) -> "ReferencePair":
        """Return the results for the first `batch` of `count` inputs."""
        lanes = self.lanes.first_rows(batch, count) if self.lanes else None
        float32, float64 = self.float32.first_rows(batch, count), self.float64.first_rows(batch, count)
        return ReferencePair(float32, float64, lanes, self._derived)

    def unreliable_rows(self, count: int) -> set[int]:
        """Return the indices of those of `count` inputs for which the float32 error of a layer is too large."""
        references = {id(reference): reference for reference in map(self.layer, self.float32.layers)}
        return {row for reference in references.values() for row in reference.unreliable_rows(count)}

    def layer(self, name: str) -> Reference:
        """Return the reference of a layer's output; layers that return the same tensor share one."""
        record = self.float32.layers[name]
        if record.identity not in self._references:
            lanes = self.lanes.layers[name].value if self.lanes else None
            float64 = _same_layer(self.float64.layers, name).value
            self._references[record.identity] = Reference(record.value, float64, LAYER_FLOOR, lanes)
        return self._references[record.identity]

    def output(self, name: str) -> Reference:
        """Return the reference of an output of the model.

        An output that is derived from another one may differ by what that one's tolerance causes.
        """
        lanes = self.lanes.outputs[name].numpy() if self.lanes else None
        source = self._derived.get(name)
        least = source.sensitivity * self.output(source.name).tolerance if source else 0.0
        float32, float64 = self.float32.outputs[name].numpy(), self.float64.outputs[name].numpy()
        return Reference(float32, float64, lanes=lanes, least_tolerance=least)


class ReferenceRuns:
    """PyTorch's results for the probe inputs at one input size; float64 runs when it is first needed."""

    def __init__(
        self, network: nn.Module, interface: Interface, fresh: nn.Module, noise_rows: Collection[int] = frozenset()
    ) -> None:
        """Run `network` in float32 on all probe inputs, and on the first two.

        `fresh` is a copy of the network that has not been run. The probe inputs `noise_rows` are replaced by noise.

        Raises: UnsupportedNetworkError.
        """
        self.interface, self.noise_rows = interface, noise_rows
        self.network, self._fresh = network, fresh
        self._inputs = _with_noise(interface, noise_rows)
        self._sums = SumDetector()
        self.float32 = self._traced(run_traced, self.count)
        self.small_batch = self._traced(run_traced, SMALL_BATCH)

    @property
    def count(self) -> int:
        """The number of probe inputs."""
        return len(PROBE_KINDS)

    @property
    def kinds(self) -> tuple[str, ...]:
        """A description of each probe input."""
        return tuple(NOISE if row in self.noise_rows else kind for row, kind in enumerate(PROBE_KINDS))

    def inputs(self, batch: int) -> Inputs:
        """Return the first `batch` probe inputs."""
        return _rows(self._inputs, slice(0, batch))

    def run_again(self) -> Mapping[str, Tensor]:
        """Run the network again on all probe inputs and return the outputs. Raises: UnsupportedNetworkError."""
        return self._outputs(run(self.network, self._arguments(self.count)))

    def run_single(self, *, fresh: bool = False) -> Mapping[str, Tensor]:
        """Run the input SINGLE_ROW on its own and return the outputs.

        `fresh` uses the copy of the network that has not been run, and therefore works only once.

        Raises: UnsupportedNetworkError.
        """
        network = self._fresh if fresh else self.network
        return self._outputs(run(network, self.interface.arguments(_rows(self._inputs, SINGLE_ROW))))

    def run_other(self, network: nn.Module, batch: int) -> TorchRun:
        """Run another network in float32 on the first `batch` probe inputs. Raises: UnsupportedNetworkError."""
        network_output, layers = run_traced(network, self._arguments(batch))
        return TorchRun(self._outputs(network_output), layers)

    @cached_property
    def pair(self) -> ReferencePair:
        """The float32 and float64 results of all probe inputs.

        Raises: UnsupportedNetworkError when the network does not run in float64.
        """
        return self._pair(self.float32, self.count)

    def with_noise(self, rows: Collection[int]) -> "ReferenceRuns":
        """Return new runs in which the probe inputs `rows` are replaced by noise."""
        return ReferenceRuns(self.network, self.interface, self._fresh, rows)

    def candidates(self, batch: int) -> Iterator[ReferencePair]:
        """Yield references for the first `batch` inputs, the cheapest first; the last is a run of that batch alone."""
        if batch == self.count:
            yield self.pair
            return
        if self._rows_are_independent:
            yield self._small_batch_rows if batch == SMALL_BATCH else self.pair.first_rows(batch, self.count)
        yield self._pair(self._traced(run_traced, batch), batch)

    def _pair(self, float32: TorchRun, batch: int) -> ReferencePair:
        with self._sums:
            float64 = self._traced(run_in_float64, batch)
        if not self._sums.detected:
            return ReferencePair(float32, float64, None, self.interface.derived_outputs)
        with LaneSummation():
            return ReferencePair(float32, float64, self._traced(run_traced, batch), self.interface.derived_outputs)

    def _arguments(self, batch: int) -> Arguments:
        return self.interface.arguments(self.inputs(batch))

    def _traced(self, run_network: RunNetwork, batch: int) -> TorchRun:
        network_output, layers = run_network(self.network, self._arguments(batch))
        return TorchRun(self._outputs(network_output), layers)

    def _outputs(self, network_output: Any) -> Mapping[str, Tensor]:
        """Return copies of the model's outputs: a network may return a buffer that it overwrites later."""
        return {name: value.detach().clone() for name, value in self.interface.model_outputs(network_output).items()}

    @cached_property
    def _small_batch_rows(self) -> ReferencePair:
        return self.pair.first_rows(SMALL_BATCH, self.count)

    @cached_property
    def _rows_are_independent(self) -> bool:
        """Whether PyTorch's results for the small batch are rows of those for all inputs, up to its float32 error."""
        rows, small_batch = self._small_batch_rows, self.small_batch
        if rows.float32.layers.keys() != small_batch.layers.keys():
            return False
        outputs = [(rows.output(name), value.numpy()) for name, value in small_batch.outputs.items()]
        layers = {record.identity: (rows.layer(name), record.value) for name, record in small_batch.layers.items()}
        return all(reference.agreement(value).holds for reference, value in (*outputs, *layers.values()))


def _with_noise(interface: Interface, rows: Collection[int]) -> Inputs:
    """Return the probe inputs with `rows` replaced by noise."""
    inputs = interface.probe_inputs()
    noise = interface.noise(len(PROBE_KINDS))
    for name, array in inputs.items():
        array[list(rows)] = noise[name][list(rows)]
    return inputs


def _rows(inputs: Inputs, rows: slice) -> Inputs:
    return {name: array[rows] for name, array in inputs.items()}


def _same_layer(layers: Layers, name: str) -> TensorRecord:
    """Return the layer of another run. Raises: UnsupportedNetworkError where that run did not call it."""
    if name not in layers:
        raise UnsupportedNetworkError(
            f"the layer '{name}' is called in float32, but not in float64 or not for every batch: a model file calls "
            "the same layers for all inputs. Remove the condition from the network's forward."
        )
    return layers[name]


def _first_rows(values: Values, batch: int, count: int) -> Values:
    """Return the rows of the first `batch` of `count` inputs, if each input has the same number of rows."""
    if values.ndim == 0 or len(values) % count:
        return values
    return values[: len(values) // count * batch]
