"""What PyTorch gives for the inputs by which a file is judged, run as seldom as evidence allows.

All telling inputs are run once in float32 and once in float64: the layers are found by them, and every number is
compared with them. A network whose rows do not depend on each other gives for the first inputs of a batch what it gives for
them alone, so the first rows are what a smaller batch must give.

Requires: a prepared network and the interface of the file made of it.
Ensures: rows stand for a batch only where PyTorch itself, run on a second batch, gives those rows at every layer; and
whoever does not find them in the file can have each batch run by itself.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, TypeVar

import numpy.typing as npt
from torch import Tensor, nn

from export.interface.interface import NOISE, TELLING, Interface
from export.reference.tolerance import Reference
from export.tracing.lane_sums import NormsSeen, SumsInLanes
from export.tracing.run import Layers, run, run_in_float64, run_traced
from export.tracing.trace import Identity

SECOND = 2  # the batch that tells whether rows stand alone
ALONE = slice(3, 4)  # half white: its mean is not 0, and no earlier input has its largest numbers
FLOOR = 2e-5  # to know a layer's value again, where small numbers left over from large ones differ by more

Array = npt.NDArray[Any]
Rows = TypeVar("Rows", Tensor, Array)


@dataclass(frozen=True)
class Given:
    """What one run in PyTorch gave: the model's outputs, and every layer's in the order in which the calls ended."""

    outputs: Mapping[str, Tensor]
    layers: Layers

    def rows(self, batch: int, of: int) -> "Given":
        """What the first `batch` of `of` inputs gave; what is not there for each input stays whole."""
        outputs = {name: _rows(value, batch, of) for name, value in self.outputs.items()}
        layers = {name: replace(each, value=_rows(each.value, batch, of)) for name, each in self.layers.items()}
        return Given(outputs, layers)


class ReferencePair:
    """One batch in float32, and the same in float64; in float32 with sums in lanes, too, where that is another."""

    def __init__(self, expected: Given, exact: Given, in_lanes: Given | None) -> None:
        self.expected, self.exact, self.in_lanes = expected, exact, in_lanes
        self._references: dict[Identity, Reference] = {}

    def rows(self, batch: int, of: int) -> "ReferencePair":
        """What the first `batch` of `of` inputs gave."""
        in_lanes = self.in_lanes.rows(batch, of) if self.in_lanes else None
        return ReferencePair(self.expected.rows(batch, of), self.exact.rows(batch, of), in_lanes)

    def hopeless(self, count: int) -> set[int]:
        """Those of the `count` inputs for which some layer's float32 is too far from its float64 to be judged by."""
        layers = {id(each): each for each in map(self.reference, self.expected.layers)}
        return {row for each in layers.values() for row in each.unreliable_rows(count)}

    def reference(self, layer: str) -> Reference:
        """What the layer gave, to compare with; layers that gave one tensor share it."""
        given = self.expected.layers[layer]
        if given.identity not in self._references:
            other = self.in_lanes.layers[layer].value if self.in_lanes else None
            self._references[given.identity] = Reference(given.value, self.exact.layers[layer].value, FLOOR, other)
        return self._references[given.identity]

    def output(self, name: str) -> Reference:
        """What the model's output is, to compare with."""
        other = self.in_lanes.outputs[name].numpy() if self.in_lanes else None
        return Reference(self.expected.outputs[name].numpy(), self.exact.outputs[name].numpy(), other=other)


class ReferenceRuns:
    """What the file must give for the telling inputs, or the first of them, at one size."""

    def __init__(
        self, network: nn.Module, interface: Interface, unused: nn.Module, noisy: Collection[int] = frozenset()
    ) -> None:
        """Run `network` in float32; `unused` is a copy that was never run; the inputs `noisy` are noise instead.

        Raises: UnsupportedNetworkError.
        """
        self.interface, self.noisy = interface, noisy
        self._net, self._unused = network, unused
        self._inputs = interface.telling()
        self._inputs[list(noisy)] = interface.noise(self.most)[list(noisy)]
        self._norms = NormsSeen()
        self.given = self._traced(run_traced, self.most)
        self.second = self._traced(run_traced, SECOND)

    @property
    def most(self) -> int:
        """How many inputs there are."""
        return len(self._inputs)

    @property
    def kinds(self) -> tuple[str, ...]:
        """What each input is."""
        return tuple(NOISE if row in self.noisy else kind for row, kind in enumerate(TELLING))

    def inputs(self, batch: int) -> Array:
        """The first `batch` inputs."""
        return self._inputs[:batch]

    def outputs(self) -> Mapping[str, Tensor]:
        """The model's outputs for all inputs, as PyTorch gives them now. Raises: UnsupportedNetworkError."""
        return self._outputs(run(self._net, self._for_net(self.most)))

    def alone(self, *, unused: bool = False) -> Mapping[str, Tensor]:
        """The same for the input ALONE, of the network or of its copy that was not run before; ask that once."""
        network = self._unused if unused else self._net
        return self._outputs(run(network, self.interface.for_net(self._inputs[ALONE])))

    @cached_property
    def whole(self) -> ReferencePair:
        """All inputs. Raises: UnsupportedNetworkError when the network does not run in float64."""
        return self._sample(self.given, self.most)

    def telling(self, noisy: Collection[int]) -> "ReferenceRuns":
        """The same with noise in place of the inputs `noisy`, which tell nothing of this network."""
        return ReferenceRuns(self._net, self.interface, self._unused, noisy)

    def samples(self, batch: int) -> Iterator[ReferencePair]:
        """What can stand for that batch, the cheapest first; the last is PyTorch's own run of it."""
        if batch == self.most:
            yield self.whole
            return
        if self._rows_stand_alone:
            yield self._second_rows if batch == SECOND else self.whole.rows(batch, self.most)
        yield self._sample(self._traced(run_traced, batch), batch)

    def _sample(self, expected: Given, batch: int) -> ReferencePair:
        with self._norms:
            exact = self._traced(run_in_float64, batch)
        if not self._norms.any:
            return ReferencePair(expected, exact, None)
        with SumsInLanes():
            return ReferencePair(expected, exact, self._traced(run_traced, batch))

    def _for_net(self, batch: int) -> Tensor:
        return self.interface.for_net(self.inputs(batch))

    def _traced(self, way: Callable[[nn.Module, Tensor], tuple[Any, Layers]], batch: int) -> Given:
        given, layers = way(self._net, self._for_net(batch))
        return Given(self._outputs(given), layers)

    def _outputs(self, given: Any) -> Mapping[str, Tensor]:
        """Copies: a network may give a buffer in which it writes again."""
        return {name: value.clone() for name, value in self.interface.outputs(given).items()}

    @cached_property
    def _second_rows(self) -> ReferencePair:
        return self.whole.rows(SECOND, self.most)

    @cached_property
    def _rows_stand_alone(self) -> bool:
        """Whether PyTorch, run on another batch, gives the rows of the largest, up to its own float32 error."""
        rows, alone = self._second_rows, self.second
        if rows.expected.layers.keys() != alone.layers.keys():
            return False
        outputs = ((rows.output(name), each.numpy()) for name, each in alone.outputs.items())
        once = {each.identity: (rows.reference(name), each.value) for name, each in alone.layers.items()}
        return all(reference.agreement(each).holds for reference, each in (*outputs, *once.values()))


def _rows(value: Rows, batch: int, of: int) -> Rows:
    """The rows of the first `batch` of `of` inputs, where each input has as many."""
    if value.ndim == 0 or len(value) % of:
        return value
    return value[: len(value) // of * batch]
