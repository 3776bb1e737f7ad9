"""Translates scaled_dot_product_attention of any number of dimensions; torch.onnx translates that of four only."""

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import onnx_ir
import torch
from onnxscript import opset18
from torch.onnx._internal.exporter._registration import ONNXRegistry

ATTENTION = torch.ops.aten.scaled_dot_product_attention.default
op: Any = opset18
RANK = 4  # batch, heads, positions, features


@cache
def translations(opset: int) -> dict[Callable[..., Any], Callable[..., Any]]:
    """Return the translations of operations that torch.onnx.export uses instead of its own."""
    original = ONNXRegistry.from_torchlib(opset_version=opset).get_decomps(ATTENTION)[0].onnx_function

    def attention(
        query: Any,
        key: Any,
        value: Any,
        attn_mask: Any = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Any:
        ranks = {len(tensor.shape) for tensor in (query, key, value)}
        sizes = (query.shape[-2], key.shape[-2], query.shape[-1])
        if ranks == {RANK} or len(ranks) > 1 or enable_gqa or not all(isinstance(size, int) for size in sizes):
            return original(query, key, value, attn_mask, dropout_p, is_causal, scale, enable_gqa)
        positions, key_positions, features = sizes
        mask = op.Constant(value=_causal_mask(positions, key_positions)) if is_causal else _to_float(attn_mask)
        return _attention(query, key, value, mask, 1 / math.sqrt(features) if scale is None else scale)

    return {ATTENTION: attention}


def _attention(query: Any, key: Any, value: Any, mask: Any, scale: float) -> Any:
    """Return softmax(scale query keyᵀ + mask) value; as in PyTorch, query and key are scaled before the product."""
    *leading, rows, columns = range(len(key.shape))
    root = op.Constant(value_float=math.sqrt(scale))
    transposed = op.Transpose(key, perm=[*leading, columns, rows])
    scores = op.MatMul(op.Mul(query, root), op.Mul(transposed, root))
    return op.MatMul(op.Softmax(scores if mask is None else op.Add(scores, mask), axis=-1), value)


def _causal_mask(positions: int, key_positions: int) -> onnx_ir.TensorProtocol:
    """Return a mask with which a position only sees keys up to itself."""
    visible = np.tril(np.ones((positions, key_positions), bool))
    return onnx_ir.tensor(np.where(visible, 0, -np.inf).astype(np.float32))


def _to_float(mask: Any) -> Any:
    """Return a mask to add to the scores: one of booleans says which keys are visible."""
    if mask is None or mask.dtype != onnx_ir.DataType.BOOL:
        return mask
    return op.Where(mask, op.Constant(value_float=0.0), op.Constant(value_float=-math.inf))
