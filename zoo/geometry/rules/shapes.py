"""Operations that only rearrange units: reshape, permute, slice, join, repeat, gather."""

import math
from collections.abc import Sequence

from zoo.geometry.joining import joined, reshaped
from zoo.geometry.rules.windows import shifted
from zoo.geometry.values import Dim, Value, constant, plain, run, size_of

Numbers = Sequence[int]


def same(x: Value, *_: object, **__: object) -> Value:
    return x


def viewed(x: Value, size: Numbers, *_: object) -> Value:
    return reshaped(x, size)


def expanded(x: Value, size: Numbers, **_: object) -> Value:
    own = (1,) * (len(size) - x.rank) + x.shape
    sizes = [old if new == -1 else new for old, new in zip(own, size, strict=True)]
    return joined([x, constant(sizes, x.axes)])


def permuted(x: Value, dims: Numbers) -> Value:
    return x.with_dims([x.dims[index] for index in dims])


def transposed(x: Value, first: int = 0, second: int = 1) -> Value:
    order = list(range(x.rank))
    order[first], order[second] = order[second], order[first]
    return permuted(x, order)


def turned(x: Value) -> Value:
    return transposed(x) if x.rank == 2 else x


def unsqueezed(x: Value, dim: int) -> Value:
    dim %= x.rank + 1
    return x.with_dims((*x.dims[:dim], (), *x.dims[dim:]))


def squeezed(x: Value, dim: int | Numbers | None = None) -> Value:
    asked = range(x.rank) if dim is None else [dim] if isinstance(dim, int) else dim
    gone = {index % x.rank for index in asked}
    return x.with_dims([each for index, each in enumerate(x.dims) if index not in gone or size_of(each) > 1])


def sliced(x: Value, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1) -> Value:
    dim %= x.rank
    first, last, _ = slice(start, end).indices(x.shape[dim])
    return _cut(x, dim, first, max(0, -(-(last - first) // step)), step)


def selected(x: Value, dim: int, index: int) -> Value:
    dim %= x.rank
    index %= x.shape[dim]
    value = x
    for place, factor in enumerate(x.dims[dim]):
        inner = size_of(x.dims[dim][place + 1 :])
        index, rest = divmod(index, inner)
        if factor.moves:
            value = shifted(value.with_dim(dim, (factor,)), dim, -index, 1)
        index = rest
    return value.with_dims([each for place, each in enumerate(value.dims) if place != dim])


def split(x: Value, size: int, dim: int = 0) -> tuple[Value, ...]:
    whole = x.shape[dim]
    return split_into(x, [min(size, whole - first) for first in range(0, whole, size)], dim)


def split_into(x: Value, sizes: Numbers, dim: int = 0) -> tuple[Value, ...]:
    firsts = [sum(sizes[:index]) for index in range(len(sizes))]
    return tuple(_cut(x, dim % x.rank, first, size, 1) for first, size in zip(firsts, sizes, strict=True))


def chunked(x: Value, chunks: int, dim: int = 0) -> tuple[Value, ...]:
    return split(x, -(-x.shape[dim] // chunks), dim)


def unbound(x: Value, dim: int = 0) -> tuple[Value, ...]:
    return tuple(selected(x, dim, index) for index in range(x.shape[dim]))


def concatenated(tensors: Sequence[Value], dim: int = 0) -> Value:
    """Branches side by side. Along channels each unit sees what the branches see together.

    Along what moves over the image, as tokens do, what a unit sees no longer follows from its index by one rule.
    """
    tensors = [each for each in tensors if each.shape != (0,)]
    dim %= tensors[0].rank
    total = sum(each.shape[dim] for each in tensors)
    moves = any(factor.moves for each in tensors for factor in each.dims[dim])
    union = joined([each.swept([dim]).with_dim(dim, ()) for each in tensors])
    return _loose(union, tensors, dim, total) if moves else union.with_dim(dim, plain(total, union.axes))


def _loose(union: Value, tensors: Sequence[Value], dim: int, total: int) -> Value:
    factors = [factor for each in tensors for factor in each.dims[dim]]
    moves = [any(factor.steps[axis] != 0 for factor in factors) for axis in range(union.axes)]
    return union.with_dim(dim, run(total, tuple(None if each else 0 for each in moves)))


def stacked(tensors: Sequence[Value], dim: int = 0) -> Value:
    dim %= tensors[0].rank + 1
    return concatenated([unsqueezed(each, dim) for each in tensors], dim)


def repeated(x: Value, repeats: Numbers) -> Value:
    x = x.with_dims(((),) * (len(repeats) - x.rank) + x.dims)
    return x.with_dims([(*plain(count, x.axes), *dim) for count, dim in zip(repeats, x.dims, strict=True)])


def rolled(x: Value, _shifts: Numbers, dims: Numbers = ()) -> Value:
    """The end comes before the beginning: no straight line any more."""
    for index in dims:
        if any(factor.moves for factor in x.dims[index]):
            x = x.loosened(index, x.shape[index])
    return x


def flipped(x: Value, dims: Numbers) -> Value:
    return rolled(x, (), dims)


def gathered(x: Value, indices: Sequence[Value | None]) -> Value:
    """Picked by constant positions: what a unit sees lies somewhere in what was seen along the picked dimensions."""
    places = [index for index, each in enumerate(indices) if each is not None]
    picked = joined([each for each in indices if each is not None]).shape
    moves = [any(factor.steps[axis] != 0 for index in places for factor in x.dims[index]) for axis in range(x.axes)]
    new: list[Dim] = [run(size, tuple(None if each else 0 for each in moves)) for size in picked]
    value = x.swept(places)
    adjacent = places == list(range(places[0], places[-1] + 1))
    kept = [dim for index, dim in enumerate(value.dims) if index not in places]
    first = places[0] if adjacent else 0
    return value.with_dims([*kept[:first], *new, *kept[first:]])


def picked(x: Value, dim: int, index: Value) -> Value:
    places: list[Value | None] = [None] * (dim % x.rank)
    return gathered(x, [*places, index])


def restrided(x: Value, size: Numbers, stride: Numbers, _offset: int | None = None) -> Value | None:
    """Known only where it changes nothing: the same sizes, of which at most one is not 1."""
    steps = [step for rows, step in zip(size, stride, strict=True) if rows > 1]
    return x if tuple(size) == x.shape and steps in ([], [1]) else None


def _cut(x: Value, dim: int, first: int, size: int, step: int) -> Value:
    if not any(factor.moves for factor in x.dims[dim]):
        return x.with_dim(dim, plain(size, x.axes))
    if len(x.dims[dim]) == 1 and x.dims[dim][0].steps.count(None) == 0:
        return shifted(x, dim, -first, size, step)
    return x if size == x.shape[dim] and step == 1 else _sub(x, dim, size)


def _sub(x: Value, dim: int, size: int) -> Value:
    outer, *inner = x.dims[dim]
    block = math.prod(factor.size for factor in inner)
    if size == block and not outer.moves:
        return x.with_dim(dim, tuple(inner))
    return x.loosened(dim, size)
