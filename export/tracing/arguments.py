"""The arguments with which a network is called: tensors, or tuples and dicts of tensors, by position and by keyword."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree


@dataclass(frozen=True, eq=False)
class Arguments:
    """The arguments of one call of a network's forward, or anything else with one value per tensor of them.

    Attributes:
        args: The positional arguments.
        kwargs: The keyword arguments.
    """

    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)

    @property
    def leaves(self) -> list[Any]:
        """The values, in the order in which torch.onnx makes them inputs of a model."""
        return pytree.tree_leaves((self.args, dict(self.kwargs)))

    @property
    def sizes(self) -> str:
        """The sizes of the tensors without the batch, such as 3x8x8."""
        return ", ".join("x".join(map(str, tensor.shape[1:])) or "one number" for tensor in self.leaves)

    def map(self, function: Callable[[Any], Any]) -> "Arguments":
        """Return arguments of the same structure with `function` of each value."""
        args, kwargs = pytree.tree_map(function, (self.args, dict(self.kwargs)))
        return Arguments(args, kwargs)

    def cast(self, dtype: torch.dtype) -> "Arguments":
        """Return copies of the tensors, those of floating-point numbers in the precision `dtype`."""
        return self.map(lambda tensor: tensor.to(dtype, copy=True) if tensor.is_floating_point() else tensor.clone())

    def to_meta(self) -> "Arguments":
        """Return tensors of the same shapes on PyTorch's meta device, which have no values."""
        return self.map(lambda tensor: torch.empty_like(tensor, device="meta"))

    def call(self, network: nn.Module) -> Any:
        """Return the network's output, computed without gradients."""
        with torch.no_grad():
            return network(*self.args, **self.kwargs)
