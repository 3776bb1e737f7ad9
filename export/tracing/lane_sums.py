"""Measures how much float32 results depend on the order of summation.

PyTorch sums the values of a feature map pairwise, or more exactly; onnxruntime sums sequentially, in one partial sum
per SIMD lane. If a norm divides by the deviation of a large feature map, or of a constant one, whose deviation is
nearly 0, the two results differ by more than PyTorch's float32 differs from its float64, although both are as exact as
float32 allows. The same holds for the mean of a large feature map, where values of both signs cancel. A network with
such sums is therefore run once more with sums in lanes, and the larger distance of its two float32 results from float64
is its float32 error.
"""

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

LANES = 8  # float32 lanes of an AVX2 register; wider registers sum more exactly
MANY_CHANNELS = 4096  # a layer norm over fewer values has the same error in any order of summation
MANY_VALUES = 256  # a mean over fewer values is not the mean of a feature map

aten = torch.ops.aten


class SumDetector(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's class is untyped
    """While active, detects sums, means and deviations over many values.

    Attributes:
        detected: Whether there was one.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.detected = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **kwargs or {})
        if func in NORMS:
            self.detected |= NORMS[func](args)
        elif func in IN_LANES:
            result = output[0] if isinstance(output, tuple) else output
            self.detected |= args[0].numel() >= MANY_VALUES * result.numel() > 0
        return output


class LaneSummation(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """While active, float32 values are summed in lanes, as onnxruntime sums them."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        replaced = _is_float32(args) and not (kwargs or {}).get("dtype")
        implementation = IN_LANES.get(func, func) if replaced else func
        return implementation(*args, **kwargs or {})


def _is_float32(args: Sequence[Any]) -> bool:
    return bool(args) and isinstance(args[0], Tensor) and args[0].dtype == torch.float32


def _group_norm(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, batch: int, _c: int, _hw: int, groups: int, eps: float
) -> tuple[Tensor, ...]:
    normed, mean, inverse = _normalise(x.reshape(batch * groups, -1), eps)
    scaled = _scale(normed.reshape(x.shape), weight, bias, (-1, *[1] * (x.ndim - 2)))
    return scaled, mean.reshape(batch, groups), inverse.reshape(batch, groups)


def _batch_norm(x: Tensor, weight: Tensor | None, bias: Tensor | None, *running: Any) -> tuple[Tensor, ...]:
    """Compute an instance norm: a training batch norm of one input, with a channel per instance."""
    *_, training, _momentum, eps = running
    if not training:
        return tuple(aten.native_batch_norm.default(x, weight, bias, *running))
    channels_first = x.transpose(0, 1)
    normed, mean, inverse = _normalise(channels_first.reshape(len(channels_first), -1), eps)
    normed = normed.reshape(channels_first.shape).transpose(0, 1)
    return _scale(normed, weight, bias, (-1, *[1] * (x.ndim - 2))), mean, inverse


def _layer_norm(
    x: Tensor, shape: Sequence[int], weight: Tensor | None, bias: Tensor | None, eps: float
) -> tuple[Tensor, ...]:
    normed, mean, inverse = _normalise(x.reshape(-1, prod(shape)), eps)
    return _scale(normed.reshape(x.shape), weight, bias, shape), mean, inverse


def _normalise(rows: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return the rows normalised to mean 0 and deviation 1, their means, and the inverses of their deviations."""
    variance, mean = _var_mean(rows, [1], correction=0, keepdim=True)
    inverse = 1 / torch.sqrt(variance + eps)
    return (rows - mean) * inverse, mean, inverse


def _scale(normed: Tensor, weight: Tensor | None, bias: Tensor | None, shape: Sequence[int]) -> Tensor:
    scaled = normed if weight is None else normed * weight.reshape(tuple(shape))
    return scaled if bias is None else scaled + bias.reshape(tuple(shape))


def _mean(x: Tensor, dim: Sequence[int] | None = None, keepdim: bool = False) -> Tensor:
    total = _sum(x, dim, keepdim)
    return total / (x.numel() // max(1, total.numel()))


def _var_mean(
    x: Tensor, dim: Sequence[int] | None = None, *, correction: float | None = None, keepdim: bool = False
) -> tuple[Tensor, Tensor]:
    mean = _mean(x, dim, keepdim=True)
    squares = _sum((x - mean) ** 2, dim, keepdim)
    count = x.numel() // max(1, squares.numel())
    return squares / max(0, count - (1 if correction is None else correction)), mean.reshape(squares.shape)


def _var(
    x: Tensor, dim: Sequence[int] | None = None, *, correction: float | None = None, keepdim: bool = False
) -> Tensor:
    return _var_mean(x, dim, correction=correction, keepdim=keepdim)[0]


def _std(
    x: Tensor, dim: Sequence[int] | None = None, *, correction: float | None = None, keepdim: bool = False
) -> Tensor:
    return _var(x, dim, correction=correction, keepdim=keepdim).sqrt()


def _sum(x: Tensor, dim: Sequence[int] | None = None, keepdim: bool = False) -> Tensor:
    """Sum over `dim` sequentially, in LANES partial sums of every LANES-th value."""
    summed_axes = sorted(axis % x.ndim for axis in dim or range(x.ndim))
    other_axes = [axis for axis in range(x.ndim) if axis not in summed_axes]
    sizes = [x.shape[axis] for axis in other_axes]
    rows = x.permute(*other_axes, *summed_axes).reshape(prod(sizes), -1)
    padded = functional.pad(rows, (0, -rows.shape[1] % LANES)).numpy()
    partial = np.add.reduce(
        padded.reshape(len(rows), -1, LANES), axis=1
    )  # numpy sums pairwise along the last axis only
    total = torch.from_numpy(np.add.reduce(partial, axis=1))
    if keepdim:
        sizes = [1 if axis in summed_axes else size for axis, size in enumerate(x.shape)]
    return total.reshape(sizes)


NORMS: dict[Any, Callable[[Sequence[Any]], bool]] = {
    aten.native_group_norm.default: lambda args: True,
    aten.native_batch_norm.default: lambda args: bool(args[5]),  # `training`, which is set for an instance norm
    aten.native_layer_norm.default: lambda args: prod(args[1]) >= MANY_CHANNELS,
}
IN_LANES: dict[Any, Callable[..., Any]] = {
    aten.native_group_norm.default: _group_norm,
    aten.native_batch_norm.default: _batch_norm,
    aten.native_layer_norm.default: _layer_norm,
    aten.mean.default: _mean,
    aten.mean.dim: _mean,
    aten.sum.default: _sum,
    aten.sum.dim_IntList: _sum,
    aten.var.correction: _var,
    aten.std.correction: _std,
    aten.var_mean.correction: _var_mean,
}
