"""Operations that combine units: elementwise, reductions, norms, softmax, matrix products."""

from collections.abc import Iterable, Iterator, Sequence

from zoo.geometry import joining
from zoo.geometry.values import Value, constant

Dims = int | Sequence[int] | None


def pointwise(*arguments: object, **_: object) -> Value:
    """The union over all tensors among the arguments, broadcast."""
    return joining.joined(_values(arguments))


def free(*arguments: object, **_: object) -> Value:
    """A new tensor of the first one's sizes that holds nothing of the image."""
    first = next(_values(arguments))
    return constant(first.shape, first.axes)


def fresh(x: Value, size: Sequence[int], *_: object, **__: object) -> Value:
    """A new tensor of these sizes that holds nothing of the image."""
    return constant(size, x.axes)


def reduced(x: Value, dim: Dims = None, keepdim: bool = False, **_: object) -> Value:
    """A mean, sum or maximum over `dim`, or over everything."""
    indices = _indices(x, dim)
    value = x.swept(indices)
    dims = [() if index in indices else dim for index, dim in enumerate(value.dims)]
    kept = [dim for index, dim in enumerate(dims) if keepdim or index not in indices]
    return value.with_dims(kept)


def reduced_twice(x: Value, dim: Dims = None, keepdim: bool = False, **_: object) -> tuple[Value, Value]:
    found = reduced(x, dim, keepdim)
    return found, found


def variance_and_mean(
    x: Value, dim: Dims = None, *, correction: float | None = None, keepdim: bool = False
) -> tuple[Value, Value]:
    return reduced_twice(x, dim, keepdim)


def variance(x: Value, dim: Dims = None, *, correction: float | None = None, keepdim: bool = False) -> Value:
    return reduced(x, dim, keepdim)


def vector_norm(x: Value, order: float = 2, dim: Dims = None, keepdim: bool = False, **_: object) -> Value:
    return reduced(x, dim, keepdim)


def swept(x: Value, dim: int, *_: object, **__: object) -> Value:
    """A softmax or running sum: the size stays, and each unit sees all that lies along `dim`."""
    return x.swept([dim])


def batch_norm(
    x: Value, _weight: object, _bias: object, _mean: object, _var: object, training: bool, *_: object
) -> Value:
    """With stored statistics each unit sees itself; with the batch's own it sees its whole channel."""
    return x.swept([0, *range(2, x.rank)]) if training else x


def layer_norm(x: Value, normalised: Sequence[int], *_: object) -> Value:
    return x.swept(range(x.rank - len(normalised), x.rank))


def group_norm(x: Value, *_: object) -> Value:
    return x.swept(range(1, x.rank))


def product(a: Value, b: Value) -> Value:
    return joining.contracted(a, b)


def added_product(bias: Value, a: Value, b: Value, **_: object) -> Value:
    return joining.joined([joining.contracted(a, b), bias])


def _indices(x: Value, dim: Dims) -> list[int]:
    if dim is None or dim == []:
        return list(range(x.rank))
    return [index % x.rank for index in ([dim] if isinstance(dim, int) else dim)]


def _values(arguments: Iterable[object]) -> Iterator[Value]:
    for argument in arguments:
        if isinstance(argument, Value):
            yield argument
        elif isinstance(argument, list | tuple):
            yield from _values(argument)
