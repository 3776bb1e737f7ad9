"""Compares the values of a model with the layers of a network, while the model computes them.

Requires: the values of a model, a few at a time, and PyTorch's results for the same inputs.
Ensures: no value is kept. Pairs that differ by more than NEAR_MISS tolerances in a sample have no agreement.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping

import numpy as np

from export.arrays import Array
from export.reference.pairs import ReferencePair
from export.reference.tolerance import Agreement
from export.tracing.trace import Identity, TensorRecord

NEAR_MISS = 10.0  # largest error of a near miss, as a multiple of the tolerance

Form = tuple[tuple[int, ...], np.dtype[np.generic]]


class Agreements:
    """How closely each value of a model matches each layer of the same shape and type."""

    def __init__(self, pair: ReferencePair, stages: Iterable[Mapping[str, Array]]) -> None:
        self.values: set[str] = set()  # the names of all values that are tensors
        self._agreements: dict[tuple[Identity, str], Agreement] = {}
        self._by_tensor: defaultdict[Identity, list[str]] = defaultdict(list)
        self._records = list(pair.float32.layers.values())
        tensors = {record.identity: record for record in self._records}
        by_form: defaultdict[Form, list[TensorRecord]] = defaultdict(list)
        for record in tensors.values():
            by_form[_form(record.value)].append(record)
        for values in stages:
            self.values.update(values)
            for name, value in values.items():
                self._compare(pair, name, value, by_form[_form(value)])

    def get(self, record: TensorRecord, value: str) -> Agreement | None:
        """Return how closely `value` matches the layer; None if they differ much, or have different shapes."""
        return self._agreements.get((record.identity, value))

    def ambiguous_pairs(self) -> Iterator[tuple[str, str]]:
        """Yield the names of each layer and value that agree, for layers that agree with several values."""
        for record in self._records:
            values = self._by_tensor[record.identity]
            agreeing = [value for value in values if self._agreements[record.identity, value].holds]
            if len(agreeing) > 1:
                yield from ((record.name, value) for value in agreeing)

    def _compare(self, pair: ReferencePair, name: str, value: Array, records: Iterable[TensorRecord]) -> None:
        for record in records:
            reference = pair.layer(record.name)
            if reference.may_hold(value, NEAR_MISS):
                self._agreements[record.identity, name] = reference.agreement(value)
                self._by_tensor[record.identity].append(name)


def _form(array: Array) -> Form:
    return array.shape, array.dtype
