"""How far float32 results depend on the order in which many numbers are summed.

PyTorch sums the numbers of a map pair by pair, or better; onnxruntime one after the other, in as many partial sums as a
register has lanes. Where a norm divides by the deviation of a large map, or of a flat one, which is next to nothing,
the two lie farther apart than PyTorch lies from its own float64, and both are as right as float32 is. So a network with
such norms is run once more with sums in lanes: the farther of its two results from float64 tells what float32 can do.
"""

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

LANES = 8  # of a register of AVX2; a wider one sums more exactly
MANY_CHANNELS = 4096  # numbers: a layer norm over fewer sums as exactly in any order
MANY_PLACES = 256  # numbers: a mean over fewer is none of a map

aten = torch.ops.aten
ROOTS = {aten.sqrt.default, aten.rsqrt.default, aten.std.correction}


class NormsSeen(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's own is untyped
    """Within it, it is noted whether anything is divided by a deviation over many numbers."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._norms = self._sums = self._roots = False

    @property
    def any(self) -> bool:
        """Whether a norm was seen, or what a norm is written with."""
        return self._norms or (self._sums and self._roots)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = func(*args, **kwargs or {})
        self._roots |= func in ROOTS
        if func in NORMS:
            self._norms |= NORMS[func](args)
        elif func in IN_LANES:
            result = given[0] if isinstance(given, tuple) else given
            self._sums |= args[0].numel() >= MANY_PLACES * result.numel()
        return given


class SumsInLanes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Within it, float32 numbers are summed in lanes."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        ours = IN_LANES.get(func, func) if _is_float32(args) and not (kwargs or {}).get("dtype") else func
        return ours(*args, **kwargs or {})


def _is_float32(args: Sequence[Any]) -> bool:
    return bool(args) and isinstance(args[0], Tensor) and args[0].dtype == torch.float32


def _group_norm(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, batch: int, _c: int, _hw: int, groups: int, eps: float
) -> tuple[Tensor, ...]:
    normed, mean, inverse = _normed(x.reshape(batch * groups, -1), eps)
    scaled = _scaled(normed.reshape(x.shape), weight, bias, (-1, *[1] * (x.ndim - 2)))
    return scaled, mean.reshape(batch, groups), inverse.reshape(batch, groups)


def _batch_norm(x: Tensor, weight: Tensor | None, bias: Tensor | None, *running: Any) -> tuple[Tensor, ...]:
    """An instance norm comes as a batch norm in training, of one input with a channel for each instance."""
    *_, training, _momentum, eps = running
    if not training:
        return tuple(aten.native_batch_norm.default(x, weight, bias, *running))
    channels_first = x.transpose(0, 1)
    normed, mean, inverse = _normed(channels_first.reshape(len(channels_first), -1), eps)
    normed = normed.reshape(channels_first.shape).transpose(0, 1)
    return _scaled(normed, weight, bias, (-1, *[1] * (x.ndim - 2))), mean, inverse


def _layer_norm(
    x: Tensor, shape: Sequence[int], weight: Tensor | None, bias: Tensor | None, eps: float
) -> tuple[Tensor, ...]:
    normed, mean, inverse = _normed(x.reshape(-1, prod(shape)), eps)
    return _scaled(normed.reshape(x.shape), weight, bias, shape), mean, inverse


def _normed(rows: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """Each row less its mean, by its deviation; the means; the inverses of the deviations."""
    variance, mean = _var_mean(rows, [1], correction=0, keepdim=True)
    inverse = 1 / torch.sqrt(variance + eps)
    return (rows - mean) * inverse, mean, inverse


def _scaled(normed: Tensor, weight: Tensor | None, bias: Tensor | None, shape: Sequence[int]) -> Tensor:
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


def _var(x: Tensor, dim: Sequence[int] | None = None, **how: Any) -> Tensor:
    return _var_mean(x, dim, **how)[0]


def _std(x: Tensor, dim: Sequence[int] | None = None, **how: Any) -> Tensor:
    return _var(x, dim, **how).sqrt()


def _sum(x: Tensor, dim: Sequence[int] | None = None, keepdim: bool = False) -> Tensor:
    """Every LANES-th number to one partial sum, one after the other."""
    summed = sorted(axis % x.ndim for axis in dim or range(x.ndim))
    kept = [axis for axis in range(x.ndim) if axis not in summed]
    sizes = [x.shape[axis] for axis in kept]
    rows = x.permute(*kept, *summed).reshape(prod(sizes), -1)
    padded = functional.pad(rows, (0, -rows.shape[1] % LANES)).numpy()
    partial = np.add.reduce(padded.reshape(len(rows), -1, LANES), axis=1)  # pairwise only along the last axis
    total = torch.from_numpy(np.add.reduce(partial, axis=1))
    return total.reshape([1 if axis in summed else size for axis, size in enumerate(x.shape)] if keepdim else sizes)


NORMS: dict[Any, Callable[[Sequence[Any]], bool]] = {
    aten.native_group_norm.default: lambda args: True,
    aten.native_batch_norm.default: lambda args: bool(args[5]),  # in training, which an instance norm is
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
