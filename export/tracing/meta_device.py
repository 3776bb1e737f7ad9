"""Copies a network to PyTorch's meta device, where it computes shapes only.

Requires: a prepared network.
Ensures: no weight is copied; tensors that modules hold as plain attributes are on the meta device, too.
"""

import copy
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import nn


def to_meta_device(network: nn.Module) -> nn.Module:
    """Return a copy of `network` on the meta device."""
    return copy.deepcopy(network, {id(tensor): _to_meta(tensor) for tensor in tensors_of(network)})


def tensors_of(network: nn.Module) -> Iterator[torch.Tensor]:
    """Yield the weights, the buffers, and the tensors that modules hold as plain attributes."""
    yield from network.parameters()
    yield from network.buffers()
    for module in network.modules():
        attributes = (value for name, value in vars(module).items() if name not in ("_parameters", "_modules"))
        yield from _nested_tensors(attributes)


def _nested_tensors(values: Iterable[Any]) -> Iterator[torch.Tensor]:
    for value in values:
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, dict):
            yield from _nested_tensors(value.values())
        elif isinstance(value, list | tuple):
            yield from _nested_tensors(value)


def _to_meta(tensor: torch.Tensor) -> torch.Tensor:
    meta = torch.empty_like(tensor, device="meta")
    return nn.Parameter(meta, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else meta
