"""Rules for operations that combine units: elementwise, reductions, norms, softmax, matrix products."""

from collections.abc import Iterable, Iterator, Sequence

from zoo.geometry import joining
from zoo.geometry.values import Value, constant

Dims = int | Sequence[int] | None


def pointwise(*arguments: object, **_: object) -> Value:
    """Return the union of all tensors among the arguments, broadcast."""
    return joining.joined(_values_in(arguments))


def constant_like(*arguments: object, **_: object) -> Value:
    """Return a tensor of the first argument's sizes that does not depend on the image."""
    first = next(_values_in(arguments))
    return constant(first.shape, first.axes)


def new_constant(x: Value, size: Sequence[int], *_: object, **__: object) -> Value:
    """Return a tensor of these sizes that does not depend on the image."""
    return constant(size, x.axes)


def reduced(x: Value, dim: Dims = None, keepdim: bool = False, **_: object) -> Value:
    """Return a mean, sum or maximum over `dim`, or over all dimensions."""
    indices = _indices(x, dim)
    value = x.swept(indices)
    dims = [() if index in indices else dim for index, dim in enumerate(value.dims)]
    return value.with_dims(dim for index, dim in enumerate(dims) if keepdim or index not in indices)


def reduced_with_indices(x: Value, dim: Dims = None, keepdim: bool = False, **_: object) -> tuple[Value, Value]:
    value = reduced(x, dim, keepdim)
    return value, value


def variance_and_mean(
    x: Value, dim: Dims = None, *, correction: float | None = None, keepdim: bool = False
) -> tuple[Value, Value]:
    return reduced_with_indices(x, dim, keepdim)


def variance(x: Value, dim: Dims = None, *, correction: float | None = None, keepdim: bool = False) -> Value:
    return reduced(x, dim, keepdim)


def vector_norm(x: Value, order: float = 2, dim: Dims = None, keepdim: bool = False, **_: object) -> Value:
    return reduced(x, dim, keepdim)


def swept(x: Value, dim: int, *_: object, **__: object) -> Value:
    """Return a softmax or running sum: the same sizes, and each unit sees everything along `dim`."""
    return x.swept([dim])


def batch_norm(
    x: Value, _weight: object, _bias: object, _mean: object, _var: object, training: bool, *_: object
) -> Value:
    """Return `x` itself in eval mode; in training mode the batch statistics make each unit see its whole channel."""
    return x.swept([0, *range(2, x.rank)]) if training else x


def layer_norm(x: Value, normalized_shape: Sequence[int], *_: object) -> Value:
    return x.swept(range(x.rank - len(normalized_shape), x.rank))


def group_norm(x: Value, *_: object) -> Value:
    return x.swept(range(1, x.rank))


def matrix_product(a: Value, b: Value) -> Value:
    return joining.contracted(a, b)


def matrix_product_with_bias(bias: Value, a: Value, b: Value, **_: object) -> Value:
    return joining.joined([joining.contracted(a, b), bias])


def _indices(x: Value, dim: Dims) -> list[int]:
    if dim is None or dim == []:
        return list(range(x.rank))
    return [index % x.rank for index in ([dim] if isinstance(dim, int) else dim)]


def _values_in(arguments: Iterable[object]) -> Iterator[Value]:
    for argument in arguments:
        if isinstance(argument, Value):
            yield argument
        elif isinstance(argument, list | tuple):
            yield from _values_in(argument)
