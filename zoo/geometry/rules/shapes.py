"""Rules for operations that only rearrange units: reshape, permute, slice, concatenate, repeat, gather."""

import math
from collections.abc import Sequence

from zoo.geometry.joining import joined, reshaped
from zoo.geometry.rules.windows import shifted
from zoo.geometry.values import Dim, Step, Value, constant, constant_dim, linear_dim, size_of

Numbers = Sequence[int]


def same(x: Value, *_: object, **__: object) -> Value:
    return x


def viewed(x: Value, size: Numbers, *_: object) -> Value:
    return reshaped(x, size)


def expanded(x: Value, size: Numbers, **_: object) -> Value:
    old_sizes = (1,) * (len(size) - x.rank) + x.shape
    sizes = [old if new == -1 else new for old, new in zip(old_sizes, size, strict=True)]
    return joined([x, constant(sizes, x.axes)])


def permuted(x: Value, dims: Numbers) -> Value:
    return x.with_dims([x.dims[index] for index in dims])


def transposed(x: Value, first: int = 0, second: int = 1) -> Value:
    order = list(range(x.rank))
    order[first], order[second] = order[second], order[first]
    return permuted(x, order)


def matrix_transposed(x: Value) -> Value:
    return transposed(x) if x.rank == 2 else x


def unsqueezed(x: Value, dim: int) -> Value:
    dim %= x.rank + 1
    return x.with_dims((*x.dims[:dim], (), *x.dims[dim:]))


def squeezed(x: Value, dim: int | Numbers | None = None) -> Value:
    candidates = range(x.rank) if dim is None else [dim] if isinstance(dim, int) else dim
    removable = {index % x.rank for index in candidates}
    return x.with_dims([dim for index, dim in enumerate(x.dims) if index not in removable or size_of(dim) > 1])


def sliced(x: Value, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1) -> Value:
    dim %= x.rank
    first, last, _ = slice(start, end).indices(x.shape[dim])
    return _cut(x, dim, first, max(0, -(-(last - first) // step)), step)


def selected(x: Value, dim: int, index: int) -> Value:
    dim %= x.rank
    index %= x.shape[dim]
    value = x
    for position, factor in enumerate(x.dims[dim]):
        inner = size_of(x.dims[dim][position + 1 :])
        index, rest = divmod(index, inner)
        if factor.moves:
            value = shifted(value.with_dim(dim, (factor,)), dim, -index, 1)
        index = rest
    return value.with_dims([value.dims[other] for other in range(value.rank) if other != dim])


def split(x: Value, size: int, dim: int = 0) -> tuple[Value, ...]:
    total = x.shape[dim]
    return split_into(x, [min(size, total - first) for first in range(0, total, size)], dim)


def split_into(x: Value, sizes: Numbers, dim: int = 0) -> tuple[Value, ...]:
    firsts = [sum(sizes[:index]) for index in range(len(sizes))]
    return tuple(_cut(x, dim % x.rank, first, size, 1) for first, size in zip(firsts, sizes, strict=True))


def chunked(x: Value, chunks: int, dim: int = 0) -> tuple[Value, ...]:
    return split(x, -(-x.shape[dim] // chunks), dim)


def unbound(x: Value, dim: int = 0) -> tuple[Value, ...]:
    return tuple(selected(x, dim, index) for index in range(x.shape[dim]))


def concatenated(tensors: Sequence[Value], dim: int = 0) -> Value:
    """Return the concatenation. Along channels, each unit sees the union of the tensors' fields.

    Along a dimension that moves over the image, such as tokens, the field is no longer linear in the index.
    """
    tensors = [tensor for tensor in tensors if tensor.shape != (0,)]
    dim %= tensors[0].rank
    total = sum(tensor.shape[dim] for tensor in tensors)
    factors = [factor for tensor in tensors for factor in tensor.dims[dim]]
    union = joined([tensor.swept([dim]).with_dim(dim, ()) for tensor in tensors])
    if not any(factor.moves for factor in factors):
        return union.with_dim(dim, constant_dim(total, union.axes))
    moves = [any(factor.steps[axis] != 0 for factor in factors) for axis in range(union.axes)]
    return union.with_dim(dim, linear_dim(total, _unordered_steps(moves)))


def _unordered_steps(moves: Sequence[bool]) -> tuple[Step, ...]:
    return tuple(None if moves_on_axis else 0 for moves_on_axis in moves)


def stacked(tensors: Sequence[Value], dim: int = 0) -> Value:
    dim %= tensors[0].rank + 1
    return concatenated([unsqueezed(tensor, dim) for tensor in tensors], dim)


def repeated(x: Value, repeats: Numbers) -> Value:
    x = x.with_dims(((),) * (len(repeats) - x.rank) + x.dims)
    return x.with_dims([(*constant_dim(count, x.axes), *dim) for count, dim in zip(repeats, x.dims, strict=True)])


def rolled(x: Value, _shifts: Numbers, dims: Numbers = ()) -> Value:
    """Return `x` with the rolled dimensions unordered: their fields are no longer linear in the index."""
    for index in dims:
        if any(factor.moves for factor in x.dims[index]):
            x = x.loosened(index, x.shape[index])
    return x


def flipped(x: Value, dims: Numbers) -> Value:
    return rolled(x, (), dims)


def gathered(x: Value, indices: Sequence[Value | None]) -> Value:
    """Return `x` indexed by constant tensors: a unit sees some part of the union along the indexed dimensions."""
    indexed = [dim for dim, index in enumerate(indices) if index is not None]
    sizes = joined([index for index in indices if index is not None]).shape
    moves = [any(factor.steps[axis] != 0 for dim in indexed for factor in x.dims[dim]) for axis in range(x.axes)]
    new: list[Dim] = [linear_dim(size, _unordered_steps(moves)) for size in sizes]
    value = x.swept(indexed)
    adjacent = indexed == list(range(indexed[0], indexed[-1] + 1))
    others = [value.dims[dim] for dim in range(value.rank) if dim not in indexed]
    first = indexed[0] if adjacent else 0
    return value.with_dims([*others[:first], *new, *others[first:]])


def index_selected(x: Value, dim: int, index: Value) -> Value:
    leading: list[Value | None] = [None] * (dim % x.rank)
    return gathered(x, [*leading, index])


def as_strided(x: Value, size: Numbers, stride: Numbers, _offset: int | None = None) -> Value | None:
    """Return `x` if nothing changes: the same sizes, at most one of them above 1. Otherwise None."""
    steps = [step for rows, step in zip(size, stride, strict=True) if rows > 1]
    return x if tuple(size) == x.shape and steps in ([], [1]) else None


def _cut(x: Value, dim: int, first: int, size: int, step: int) -> Value:
    """Return `size` rows of a dimension, every `step`-th from `first` on."""
    if not any(factor.moves for factor in x.dims[dim]):
        return x.with_dim(dim, constant_dim(size, x.axes))
    if len(x.dims[dim]) == 1 and x.dims[dim][0].steps.count(None) == 0:
        return shifted(x, dim, -first, size, step)
    return x if size == x.shape[dim] and step == 1 else _cut_factors(x, dim, size)


def _cut_factors(x: Value, dim: int, size: int) -> Value:
    """Return `size` rows of a dimension of several factors, known exactly if they are one step of the outermost."""
    outer, *inner = x.dims[dim]
    block = math.prod(factor.size for factor in inner)
    if size == block and not outer.moves:
        return x.with_dim(dim, tuple(inner))
    return x.loosened(dim, size)
