"""Runs code in float64 that would otherwise create float32 tensors.

Ensures: a tensor that PyTorch's functions create without a dtype, as `torch.ones(3)` does, is float64 where it would be
float32; only the calling thread is affected.
"""

from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._device import _device_constructors

from export.tensors import attribute_tensors, converted


class Float64Constants(TorchFunctionMode):
    """While active, constants without a dtype are float64 instead of float32."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        keywords = dict(kwargs or {})
        result = func(*args, **keywords)
        if func not in _device_constructors() or keywords.get("dtype") is not None or result.dtype != torch.float32:
            return result
        return func(*args, **keywords, dtype=torch.float64) if "dtype" not in keywords else result.double()


def float64_copy(network: nn.Module) -> nn.Module:
    """Return a copy of `network` in float64, plain attributes included."""
    return converted(network, attribute_tensors(network), _to_float64).double()


def _to_float64(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.double() if tensor.is_floating_point() else tensor.clone()
