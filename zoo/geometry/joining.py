"""Tensors that meet: broadcasting, the union of what their units see, and other groupings of the same factors."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import reduce

from zoo.geometry.values import Dim, Factor, Span, Step, Value, merged, run, size_of


def joined(values: Iterable[Value]) -> Value:
    """What an elementwise operation gives: broadcast sizes; each unit sees what its operands see together."""
    return reduce(_pair, values)


def reshaped(value: Value, sizes: Sequence[int]) -> Value:
    """The same units in the same order, under other sizes; one of them may be -1."""
    sizes = _resolved(sizes, value.shape)
    dims = _regrouped(merged(tuple(factor for dim in value.dims for factor in dim)), sizes)
    return value.with_dims(dims) if dims else _shuffled(value, sizes)


def _resolved(sizes: Sequence[int], shape: Sequence[int]) -> tuple[int, ...]:
    count, known = 1, 1
    for size in shape:
        count *= size
    for size in sizes:
        known *= size if size != -1 else 1
    return tuple(count // known if size == -1 else size for size in sizes)


def _regrouped(factors: Dim, sizes: Iterable[int]) -> list[Dim] | None:
    """`factors` dealt out to dimensions of these sizes, split where needed; None where no split does it."""
    left = list(reversed(factors))
    dims = []
    for size in sizes:
        dim: list[Factor] = []
        while size > 1:
            factor = left.pop()
            if size % factor.size and factor.size % size:
                return None
            if size < factor.size:
                factor, rest = factor.split(size)
                left.append(rest)
            dim.append(factor)
            size //= factor.size
        dims.append(merged(tuple(dim)))
    return dims


def _shuffled(value: Value, sizes: Sequence[int]) -> Value:
    factors = [factor for dim in value.dims for factor in dim]
    steps: tuple[Step, ...] = tuple(
        None if any(factor.steps[axis] != 0 for factor in factors) else 0 for axis in range(value.axes)
    )
    return value.swept(range(value.rank)).with_dims([run(size, steps) for size in sizes])


def _pair(a: Value, b: Value) -> Value:
    axes = max(a.axes, b.axes)
    a, b = _aligned(a, b, axes)
    if not (a.spans and b.spans):
        return b if b.spans else a
    sides = (_Side(_flat(a), a.spans), _Side(_flat(b), b.spans))
    found = [_join_axis(axis, *sides) for axis in range(axes)]
    steps = [tuple(column[index] for column, _ in found) for index in range(len(sides[0].factors))]
    left = iter(steps)
    dims = [merged(tuple(Factor(factor.size, next(left)) for factor in dim)) for dim in a.dims]
    return Value(tuple(dims), tuple(span for _, span in found))


@dataclass(frozen=True)
class _Side:
    factors: list[Factor]
    spans: tuple[Span, ...]

    def swept(self, axis: int, indices: Iterable[int]) -> Span:
        span = self.spans[axis]
        for index in indices:
            span = span.swept(self.factors[index].steps[axis], self.factors[index].size)
        return span

    def steps(self, axis: int) -> list[Step]:
        return [factor.steps[axis] for factor in self.factors]


def _join_axis(axis: int, a: _Side, b: _Side) -> tuple[list[Step], Span]:
    """The steps and span of the union on one axis of the image.

    Along factors where the two move differently, each is swept; where one does not move there and covers all that
    the other sees, the union is just that one. That is how attention and squeeze-and-excite come out exact.
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
    """Both with the same factors, of the same sizes, in each dimension."""
    rank = max(a.rank, b.rank)
    a, b = _raised(a, rank), _raised(b, rank)
    for index in range(rank):
        a, b = _aligned_dim(a, b, index, axes)
    return a, b


def _raised(value: Value, rank: int) -> Value:
    return replace(value, dims=((),) * (rank - value.rank) + value.dims, margins=())


def _aligned_dim(a: Value, b: Value, index: int, axes: int) -> tuple[Value, Value]:
    x, y = a.dims[index], b.dims[index]
    if size_of(x) == 1 or size_of(y) == 1:
        return a.with_dim(index, x or _still(y, axes)), b.with_dim(index, y or _still(x, axes))
    if not (a.spans and b.spans):
        return a.with_dim(index, x if a.spans else _still(y, axes)), b.with_dim(
            index, y if b.spans else _still(x, axes)
        )
    refined = _refined(x, y)
    if refined:
        return a.with_dim(index, refined[0]), b.with_dim(index, refined[1])
    return a.loosened(index, size_of(x)), b.loosened(index, size_of(y))


def _still(dim: Dim, axes: int) -> Dim:
    return tuple(Factor(factor.size, (0,) * axes) for factor in dim)


def _refined(x: Dim, y: Dim) -> tuple[Dim, Dim] | None:
    """Two ways to factor one size, split until they agree; None where they never do."""
    left, right = list(reversed(x)), list(reversed(y))
    found: list[tuple[Factor, Factor]] = []
    while left and right:
        p, q = left.pop(), right.pop()
        if p.size > q.size and p.size % q.size == 0:
            p, rest = p.split(q.size)
            left.append(rest)
        elif q.size > p.size and q.size % p.size == 0:
            q, rest = q.split(p.size)
            right.append(rest)
        elif p.size != q.size:
            return None
        found.append((p, q))
    return tuple(p for p, _ in found), tuple(q for _, q in found)


def _flat(value: Value) -> list[Factor]:
    return [factor for dim in value.dims for factor in dim]


def contracted(a: Value, b: Value) -> Value:
    """A batched matrix product, (..., n, k) by (..., k, m): each unit sees its whole row and its whole column."""
    rows, columns = a.swept([-1]).with_dim(-1, ()), b.swept([-2]).with_dim(-2, ())
    return joined([rows, columns])
