"""What PyTorch gives for several batches, run as seldom as evidence allows.

A net whose rows do not depend on each other gives for the first pictures of a batch what it gives for them alone. So
the largest batch is run once in both precisions, and its first rows are what a smaller one must give.

Requires: a prepared net, the same in float64, and the interface of the file made of it.
Ensures: rows stand for a batch only where PyTorch itself, run on a second batch, gives those rows at every layer; and
whoever does not find them in the file can have each batch run by itself.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy.typing as npt
import torch
from torch import nn

from export.interface import Interface, arrays
from export.parity import Reference
from export.trace import Output, traced

SECOND = 2  # the batch that tells whether rows stand alone

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Given:
    """What one run in PyTorch gave: the model's outputs, and every layer's."""

    outputs: Mapping[str, Array]
    layers: Mapping[str, Output]

    def rows(self, batch: int, of: int) -> "Given":
        """What the first `batch` of `of` inputs gave; what is not there for each input stays whole."""
        outputs = {name: _rows(value, batch, of) for name, value in self.outputs.items()}
        layers = {name: replace(each, value=_rows(each.value, batch, of)) for name, each in self.layers.items()}
        return Given(outputs, layers)


@dataclass(frozen=True)
class Sample:
    """One batch in float32, and the same in float64."""

    expected: Given
    exact: Given


class Expectation:
    """What the file must give for the first inputs of one sequence, at one size."""

    def __init__(self, net: nn.Module, double: nn.Module, interface: Interface, most: int) -> None:
        """`most` is the largest batch."""
        self.interface = interface
        self._net, self._double, self._most = net, double, most
        self._noise = interface.noise(most)
        self._whole = self._run(most)
        self._stand_alone = self._rows_are_the_second_batch()

    def inputs(self, batch: int) -> Array:
        """The first `batch` inputs."""
        return self._noise[:batch]

    def samples(self, batch: int) -> Iterator[Sample]:
        """What can stand for that batch, the cheapest first; the last is PyTorch's own run of it."""
        if batch == self._most:
            yield self._whole
            return
        if self._stand_alone:
            yield self._rows(batch)
        yield self._run(batch)

    def _run(self, batch: int) -> Sample:
        return Sample(self._given(self._net, batch, torch.float32), self._given(self._double, batch, torch.float64))

    def _given(self, net: nn.Module, batch: int, dtype: torch.dtype) -> Given:
        given, outputs = traced(net, self.interface.for_net(self.inputs(batch), dtype))
        return Given(arrays(self.interface.outputs(given)), {output.name: output for output in outputs})

    def _rows(self, batch: int) -> Sample:
        return Sample(*(each.rows(batch, self._most) for each in (self._whole.expected, self._whole.exact)))

    def _rows_are_the_second_batch(self) -> bool:
        """Whether PyTorch, run on another batch, gives the rows of the largest, up to its own float32 error."""
        rows, alone = self._rows(SECOND), self._given(self._net, SECOND, torch.float32)
        if rows.expected.layers.keys() != alone.layers.keys():
            return False
        outputs = (
            (rows.expected.outputs[name], rows.exact.outputs[name], each) for name, each in alone.outputs.items()
        )
        layers = (
            (rows.expected.layers[name].value, rows.exact.layers[name].value, each.value)
            for name, each in alone.layers.items()
        )
        return all(Reference(row, exact).agreement(each).holds for row, exact, each in (*outputs, *layers))


def _rows(value: Array, batch: int, of: int) -> Array:
    """The rows of the first `batch` of `of` inputs, where each input has as many."""
    if value.ndim == 0 or len(value) % of:
        return value
    return value[: len(value) // of * batch]
