"""Union of receptive fields under broadcasting, and reshaping, of symbolic tensors."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import reduce

from zoo.geometry.values import Dim, Factor, Span, Step, Value, linear_dim, merged, size_of


def joined(values: Iterable[Value]) -> Value:
    """Return an elementwise operation's output: broadcast sizes, and the union of the operands' receptive fields."""
    return reduce(_joined_pair, values)


def reshaped(value: Value, sizes: Sequence[int]) -> Value:
    """Return the same units in the same order with other sizes, one of which may be -1."""
    sizes = _resolved(sizes, value.shape)
    dims = _regrouped(merged(tuple(_all_factors(value))), sizes)
    return value.with_dims(dims) if dims else _unordered(value, sizes)


def _resolved(sizes: Sequence[int], shape: Sequence[int]) -> tuple[int, ...]:
    known = math.prod(size for size in sizes if size != -1)
    return tuple(math.prod(shape) // known if size == -1 else size for size in sizes)


def _regrouped(factors: Dim, sizes: Iterable[int]) -> list[Dim] | None:
    """Distribute `factors` over dimensions of these sizes, splitting where needed; None if no split works."""
    remaining = list(reversed(factors))
    dims = []
    for size in sizes:
        dim: list[Factor] = []
        while size > 1:
            factor = remaining.pop()
            if size % factor.size and factor.size % size:
                return None
            if size < factor.size:
                factor, rest = factor.split(size)
                remaining.append(rest)
            dim.append(factor)
            size //= factor.size
        dims.append(merged(tuple(dim)))
    return dims


def _unordered(value: Value, sizes: Sequence[int]) -> Value:
    """Return a value of these sizes whose units see unordered parts of the union of all fields."""
    factors = _all_factors(value)
    steps: tuple[Step, ...] = tuple(
        None if any(factor.steps[axis] != 0 for factor in factors) else 0 for axis in range(value.axes)
    )
    return value.swept(range(value.rank)).with_dims([linear_dim(size, steps) for size in sizes])


def _joined_pair(a: Value, b: Value) -> Value:
    axes = max(a.axes, b.axes)
    a, b = _aligned(a, b, axes)
    if not (a.spans and b.spans):
        return b if b.spans else a
    operands = (_Operand(_all_factors(a), a.spans), _Operand(_all_factors(b), b.spans))
    joined_axes = [_join_axis(axis, *operands) for axis in range(axes)]
    steps = zip(*(axis_steps for axis_steps, _ in joined_axes), strict=True)  # per factor, one step per axis
    dims = [merged(tuple(Factor(factor.size, next(steps)) for factor in dim)) for dim in a.dims]
    return Value(tuple(dims), tuple(span for _, span in joined_axes))


@dataclass(frozen=True)
class _Operand:
    """A value's factors in one list, and its spans."""

    factors: list[Factor]
    spans: tuple[Span, ...]

    def swept(self, axis: int, indices: Iterable[int]) -> Span:
        span = self.spans[axis]
        for index in indices:
            span = span.swept(self.factors[index].steps[axis], self.factors[index].size)
        return span

    def steps(self, axis: int) -> list[Step]:
        return [factor.steps[axis] for factor in self.factors]


def _join_axis(axis: int, a: _Operand, b: _Operand) -> tuple[list[Step], Span]:
    """Return the steps and the span of the union on one image axis.

    Along factors where the operands' steps differ, each operand is swept. Where one of them does not move and covers
    the other, the union is that one: this makes attention and squeeze-and-excite exact.
    """
    steps_a, steps_b = a.steps(axis), b.steps(axis)
    differ = [index for index, (x, y) in enumerate(zip(steps_a, steps_b, strict=True)) if x != y]
    span_a, span_b = a.swept(axis, differ), b.swept(axis, differ)
    if not differ:
        return steps_a, span_a.joined(span_b)
    moves = any(step != 0 for index, step in enumerate(steps_a) if index not in differ)
    if all(steps_a[index] == 0 for index in differ) and span_a.covers(span_b, moves):
        return steps_a, span_a
    if all(steps_b[index] == 0 for index in differ) and span_b.covers(span_a, moves):
        return steps_b, span_b
    return [None if index in differ else step for index, step in enumerate(steps_a)], span_a.joined(span_b)


def _aligned(a: Value, b: Value, axes: int) -> tuple[Value, Value]:
    """Return both values with factors of the same sizes in each dimension."""
    rank = max(a.rank, b.rank)
    a, b = _with_rank(a, rank), _with_rank(b, rank)
    for index in range(rank):
        a, b = _aligned_dim(a, b, index, axes)
    return a, b


def _with_rank(value: Value, rank: int) -> Value:
    return replace(value, dims=((),) * (rank - value.rank) + value.dims, margins=())


def _aligned_dim(a: Value, b: Value, index: int, axes: int) -> tuple[Value, Value]:
    dim_a, dim_b = a.dims[index], b.dims[index]
    unmoved_a, unmoved_b = _unmoved(dim_a, axes), _unmoved(dim_b, axes)
    if size_of(dim_a) == 1 or size_of(dim_b) == 1:
        return a.with_dim(index, dim_a or unmoved_b), b.with_dim(index, dim_b or unmoved_a)
    if not (a.spans and b.spans):
        return a.with_dim(index, dim_a if a.spans else unmoved_b), b.with_dim(index, dim_b if b.spans else unmoved_a)
    refined = _refined(dim_a, dim_b)
    if refined:
        return a.with_dim(index, refined[0]), b.with_dim(index, refined[1])
    return a.loosened(index, size_of(dim_a)), b.loosened(index, size_of(dim_b))


def _unmoved(dim: Dim, axes: int) -> Dim:
    return tuple(Factor(factor.size, (0,) * axes) for factor in dim)


def _refined(dim_a: Dim, dim_b: Dim) -> tuple[Dim, Dim] | None:
    """Split two factorisations of the same size until their sizes agree; return None if they cannot."""
    remaining_a, remaining_b = list(reversed(dim_a)), list(reversed(dim_b))
    pairs: list[tuple[Factor, Factor]] = []
    while remaining_a and remaining_b:
        a, b = remaining_a.pop(), remaining_b.pop()
        if a.size > b.size and a.size % b.size == 0:
            a, rest = a.split(b.size)
            remaining_a.append(rest)
        elif b.size > a.size and b.size % a.size == 0:
            b, rest = b.split(a.size)
            remaining_b.append(rest)
        elif a.size != b.size:
            return None
        pairs.append((a, b))
    return tuple(a for a, _ in pairs), tuple(b for _, b in pairs)


def _all_factors(value: Value) -> list[Factor]:
    return [factor for dim in value.dims for factor in dim]


def contracted(a: Value, b: Value) -> Value:
    """Return the batched matrix product (..., n, k) by (..., k, m): each unit sees its whole row and whole column."""
    rows, columns = a.swept([-1]).with_dim(-1, ()), b.swept([-2]).with_dim(-2, ())
    return joined([rows, columns])
