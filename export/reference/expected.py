"""Runs PyTorch on the probe inputs, as few times as the comparisons need.

All probe inputs are run once in float32 and once in float64. These runs identify the layers, and all numbers are
compared with them. If the rows of a batch are independent, the network's results for a smaller batch are the first rows
of its results for the largest one, so that smaller batches need no separate runs.

Requires: a prepared network, and the interface of the model made from it.
Ensures: rows are used for a smaller batch only if PyTorch, run on a second batch, returns the same rows at every layer.
If the model does not match the rows, the smaller batch can still be run separately.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from torch import Tensor, nn

from export.interface.interface import NOISE, PROBE_KINDS, Inputs, Interface
from export.reference.pairs import ReferencePair, TorchRun, outputs_of, reference_pairs, run_float32
from export.tracing.arguments import Arguments
from export.tracing.run import Consumer, run, run_streamed
from export.tracing.trace import Identity, TensorRecord

BATCH_RTOL = 1e-3  # of the largest magnitude: more than the rounding errors of another batch size
BATCHES = (1, 2, 3, 5)  # for which models are compared: the first probe inputs, and all of them
SMALL_BATCH = 2  # the second batch, which shows whether rows are independent
SINGLE_ROW = slice(3, 4)  # the half white input: its mean is not 0, and no earlier input has larger values


@dataclass(frozen=True)
class SmallBatch:
    """The results for the first SMALL_BATCH inputs, run by themselves.

    Attributes:
        outputs: The expected outputs of the model.
        shapes: The shape of each layer's output, by layer name.
        batch_dependent: The layers that have a row per input, which is another one for all inputs.
        are_rows: Whether all results are rows of those for all inputs, up to PyTorch's float32 error.
    """

    outputs: Mapping[str, Tensor]
    shapes: Mapping[str, tuple[int, ...]]
    batch_dependent: frozenset[str]
    are_rows: bool


class ReferenceRuns:
    """PyTorch's results for the probe inputs at one input size; float64 runs when it is first needed."""

    def __init__(
        self, network: nn.Module, interface: Interface, fresh: nn.Module, noise_rows: Collection[int] = frozenset()
    ) -> None:
        """Run `network` in float32 on all probe inputs, and on one.

        `fresh` is a copy of the network that has not been run. The probe inputs `noise_rows` are replaced by noise.

        Raises: UnsupportedNetworkError.
        """
        self.interface, self.noise_rows = interface, noise_rows
        self.network, self._fresh = network, fresh
        self._inputs = _with_noise(interface, noise_rows)
        self.float32 = self._run(self.count)
        self.run_single()  # a network that cannot run twice fails here, not in the conversion

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

    def run_other(self, network: nn.Module, batch: int, consume: Consumer = lambda _: None) -> Mapping[str, Tensor]:
        """Run another network in float32 on the first `batch` probe inputs, and pass its layers to `consume`.

        Raises: UnsupportedNetworkError.
        """
        return self._outputs(run_streamed(network, self._arguments(batch), consume))

    @property
    def pair(self) -> ReferencePair:
        """The float32 results of all probe inputs, and their tolerances.

        Raises: UnsupportedNetworkError when the network does not run in float64.
        """
        return self._row_pairs[self.count]

    def with_noise(self, rows: Collection[int]) -> "ReferenceRuns":
        """Return new runs in which the probe inputs `rows` are replaced by noise."""
        return ReferenceRuns(self.network, self.interface, self._fresh, rows)

    def candidates(self, batch: int) -> Iterator[ReferencePair]:
        """Yield references for the first `batch` inputs, the cheapest first; the last is a run of that batch alone."""
        if batch == self.count:
            yield self.pair
            return
        if self.small_batch.are_rows:
            yield self._row_pairs[batch]
        yield self._pairs(self._run(batch), [batch])[batch]

    def _run(self, batch: int) -> TorchRun:
        return run_float32(self.network, self.interface, self._arguments(batch))

    def _pairs(self, float32: TorchRun, rows: Sequence[int]) -> dict[int, ReferencePair]:
        return reference_pairs(self.network, self.interface, self._arguments(rows[-1]), float32, rows)

    def _arguments(self, batch: int) -> Arguments:
        return self.interface.arguments(self.inputs(batch))

    def _outputs(self, network_output: Any) -> Mapping[str, Tensor]:
        return outputs_of(self.interface, network_output)

    @cached_property
    def _row_pairs(self) -> Mapping[int, ReferencePair]:
        """The pairs of all probe inputs and of their first rows."""
        return self._pairs(self.float32, BATCHES)

    @cached_property
    def small_batch(self) -> SmallBatch:
        """The results for the second batch, whose layers are compared while it runs.

        Raises: UnsupportedNetworkError.
        """
        rows = self._row_pairs[SMALL_BATCH]
        shapes: dict[str, tuple[int, ...]] = {}
        agreements: dict[Identity, bool] = {}
        batch_dependent: set[str] = set()

        def compare(record: TensorRecord) -> None:
            shapes[record.name] = record.value.shape
            row = rows.float32.layers.get(record.name)
            if row is not None and row.identity not in agreements:
                agreements[row.identity] = rows.layer(record.name).agreement(record.value).holds
            if row is not None and not agreements[row.identity] and not self._has_rows(record):
                batch_dependent.add(record.name)

        outputs = self.run_other(self.network, SMALL_BATCH, compare)
        agree = all(rows.output(name).agreement(value.numpy()).holds for name, value in outputs.items())
        same_layers = shapes.keys() == rows.float32.layers.keys()
        are_rows = agree and same_layers and all(agreements.values())
        return SmallBatch(outputs, shapes, frozenset(batch_dependent), are_rows)

    def _has_rows(self, record: TensorRecord) -> bool:
        """Return whether `record`, of the small batch, has the first rows of the same layer for all inputs.

        A layer that does not have a row per input is not compared.
        """
        all_rows, rows = self.float32.layers[record.name].value, record.value
        expected = all_rows[:SMALL_BATCH]
        if all_rows.shape[:1] != (self.count,) or rows.shape != expected.shape or np.array_equal(rows, expected):
            return True
        if not np.issubdtype(rows.dtype, np.inexact):
            return False
        largest = np.max(np.abs(all_rows), initial=0.0, where=np.isfinite(all_rows))
        return bool(np.allclose(rows, expected, rtol=0.0, atol=BATCH_RTOL * float(largest), equal_nan=True))


def _with_noise(interface: Interface, rows: Collection[int]) -> Inputs:
    """Return the probe inputs with `rows` replaced by noise."""
    inputs = interface.probe_inputs()
    noise = interface.noise(len(PROBE_KINDS))
    for name, array in inputs.items():
        array[list(rows)] = noise[name][list(rows)]
    return inputs


def _rows(inputs: Inputs, rows: slice) -> Inputs:
    return {name: array[rows] for name, array in inputs.items()}
