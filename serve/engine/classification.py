"""Triton's classification extension: replaces an output by its top classes, as strings."""

from collections.abc import Sequence

import numpy as np

from serve.errors import InvalidRequestError
from serve.wire import datatypes
from serve.wire.tensors import Array, Tensor

UNSUPPORTED = frozenset({"BOOL", "BYTES", "FP16", "BF16"})  # Triton classifies neither FP16 nor BOOL


def require_rankable(name: str, datatype: str) -> None:
    """Reject an output whose datatype cannot be ranked.

    Raises:
        InvalidRequestError: The datatype cannot be ranked.
    """
    if datatype in UNSUPPORTED:
        raise InvalidRequestError(f"output '{name}' is {datatype}, which cannot be classified; request the tensor.")


def classify(tensor: Tensor, count: int, labels: Sequence[str], *, batched: bool) -> Tensor:
    """Return the `count` highest classes of each row as `value:index:label`, highest first, ties by ascending index.

    The shape is (batch, count), or (count,) if the model has no batch; `count` is limited to the number of classes.
    """
    rows = tensor.array.reshape(len(tensor.array) if batched else 1, -1)
    indices = _descending(rows)[:, :count]
    classes = [
        [_class_text(row[index], index, labels) for index in row_indices]
        for row, row_indices in zip(rows, indices, strict=True)
    ]
    array = np.array(classes, object).reshape(indices.shape)
    return Tensor(tensor.name, datatypes.BYTES.name, array if batched else array[0])


def _descending(rows: Array) -> Array:
    """Return the indices that sort each row in descending order.

    The reversed rows are sorted in ascending order and reversed back: stable, and correct for unsigned numbers too.
    """
    reversed_indices = np.argsort(rows[:, ::-1], axis=1, kind="stable")[:, ::-1]
    indices: Array = rows.shape[1] - 1 - np.asarray(reversed_indices)
    return indices


def _class_text(value: float, index: int, labels: Sequence[str]) -> bytes:
    label = f":{labels[index]}" if index < len(labels) else ""
    return f"{float(value):f}:{index}{label}".encode()
