"""A network without numbers: the same modules, whose tensors are on PyTorch's meta device.

Requires: a prepared network.
Ensures: no weight is copied; tensors that modules keep without having registered them are on the meta device, too.
"""

import copy
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import nn


def without_numbers(network: nn.Module) -> nn.Module:
    """Return a copy of `network` that computes shapes alone."""
    return copy.deepcopy(network, {id(tensor): _empty(tensor) for tensor in _tensors(network)})


def _tensors(network: nn.Module) -> Iterator[torch.Tensor]:
    yield from network.parameters()
    yield from network.buffers()
    for module in network.modules():
        yield from _inside(value for name, value in vars(module).items() if name not in ("_parameters", "_modules"))


def _inside(values: Iterable[Any]) -> Iterator[torch.Tensor]:
    for value in values:
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, dict):
            yield from _inside(value.values())
        elif isinstance(value, list | tuple):
            yield from _inside(value)


def _empty(tensor: torch.Tensor) -> torch.Tensor:
    there = torch.empty_like(tensor, device="meta")
    return nn.Parameter(there, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else there
