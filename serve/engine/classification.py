"""Triton's classification extension: an output as its best classes, in words."""

from collections.abc import Sequence

import numpy as np

from serve.errors import InvalidRequestError
from serve.wire import datatypes
from serve.wire.tensors import Array, Tensor

WITHOUT_ORDER = frozenset({"BOOL", "BYTES", "FP16", "BF16"})  # Triton classifies neither FP16 nor BOOL


def check(name: str, datatype: str) -> None:
    """Raises: InvalidRequestError where values of this datatype cannot be ranked."""
    if datatype in WITHOUT_ORDER:
        raise InvalidRequestError(f"output '{name}' is {datatype}, which cannot be classified; ask for the tensor.")


def classify(tensor: Tensor, classes: int, labels: Sequence[str], *, batched: bool) -> Tensor:
    """Return the best `classes` of each row as `value:index:label`, best first, ties in the order of the indices.

    The shape is (batch, classes), or (classes,) where the model has no batch; never more classes than there are.
    """
    rows = tensor.array.reshape(len(tensor.array) if batched else 1, -1)
    best = _descending(rows)[:, :classes]
    words = [[_words(row[index], index, labels) for index in order] for row, order in zip(rows, best, strict=True)]
    array = np.array(words, object).reshape(best.shape)
    return Tensor(tensor.name, datatypes.BYTES.name, array if batched else array[0])


def _descending(rows: Array) -> Array:
    """Sort backwards from the back: stable, and right for unsigned numbers as well."""
    backwards = np.argsort(rows[:, ::-1], axis=1, kind="stable")[:, ::-1]
    places: Array = rows.shape[1] - 1 - np.asarray(backwards)
    return places


def _words(value: float, index: int, labels: Sequence[str]) -> bytes:
    label = f":{labels[index]}" if index < len(labels) else ""
    return f"{float(value):f}:{index}{label}".encode()
