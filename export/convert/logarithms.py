"""Translates logarithms of exponentials without overflow; torch.onnx takes the exponential first, which overflows."""

from collections.abc import Callable
from typing import Any

import torch
from onnxscript import opset18

op: Any = opset18


def log_sigmoid(values: Any) -> Any:
    """Return log(sigmoid(values)) as -log(1 + exp(-values)): a sigmoid is 0 below -104."""
    return op.Neg(op.Softplus(op.Neg(values)))


def log_add_exp(left: Any, right: Any) -> Any:
    """Return log(exp(left) + exp(right)) as the larger one plus log(1 + exp(-distance)); equal infinities remain."""
    distance = op.Where(op.Equal(left, right), op.CastLike(op.Constant(value_float=0.0), left), op.Sub(left, right))
    return op.Add(op.Max(left, right), op.Softplus(op.Neg(op.Abs(distance))))


TRANSLATIONS: dict[Callable[..., Any], Callable[..., Any]] = {
    torch.ops.aten.log_sigmoid.default: log_sigmoid,
    torch.ops.aten.logaddexp.default: log_add_exp,
}
