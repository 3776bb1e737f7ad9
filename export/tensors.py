"""Walks the tensors that a network holds, also in plain attributes, and copies networks with converted tensors.

PyTorch's `to()` and `double()` convert parameters and buffers only; a tensor in a plain attribute, or in a list or dict
there, would stay behind.
"""

import copy
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from export.errors import UnsupportedNetworkError, one_line

OWN_DICTS = ("_parameters", "_buffers", "_modules")


def held_tensors(network: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield each parameter, buffer and tensor in a plain attribute, with its path."""
    yield from network.named_parameters()
    yield from network.named_buffers()
    yield from attribute_tensors(network)


def attribute_tensors(network: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield each tensor in plain attributes, with its path."""
    yield from ((path, value) for path, value in attribute_values(network) if isinstance(value, torch.Tensor))


def attribute_values(network: nn.Module) -> Iterator[tuple[str, Any]]:
    """Yield the values of plain attributes, and what lists, tuples and dicts among them contain, with their paths."""
    for path, module in network.named_modules():
        for name, value in vars(module).items():
            if name not in OWN_DICTS:
                yield from _nested(f"{path}.{name}" if path else name, value, set())


def converted(
    network: nn.Module, tensors: Iterator[tuple[str, torch.Tensor]], convert: Callable[[torch.Tensor], torch.Tensor]
) -> nn.Module:
    """Return a copy of `network` in which `convert` was applied to each of `tensors`."""
    return copied(network, {id(tensor): _converted(tensor, convert) for _, tensor in tensors})


def copied(network: nn.Module, known: dict[int, Any] | None = None) -> nn.Module:
    """Return a deep copy; `known` has the copies of some objects by id, and gets those of all others.

    Raises: UnsupportedNetworkError.
    """
    try:
        return copy.deepcopy(network, known)
    except Exception as error:
        raise UnsupportedNetworkError(
            f"the network cannot be copied, which all checks require: {one_line(error)}."
        ) from error


def _converted(tensor: torch.Tensor, convert: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    result = convert(tensor.detach())
    return nn.Parameter(result, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else result


def _nested(path: str, value: Any, containing: set[int]) -> Iterator[tuple[str, Any]]:
    """Yield `value`, and what it contains; a container that contains itself is entered once."""
    yield path, value
    if id(value) in containing:
        return
    inside = containing | {id(value)}
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _nested(f"{path}[{key!r}]", item, inside)
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from _nested(f"{path}[{index}]", item, inside)
