"""Copies a network to PyTorch's meta device, where it computes shapes only.

Requires: a prepared network.
Ensures: no weight is copied; tensors that modules hold as plain attributes are on the meta device, too.
"""

import torch
from torch import nn

from export.tensors import converted, held_tensors


def to_meta_device(network: nn.Module) -> nn.Module:
    """Return a copy of `network` on the meta device."""
    return converted(network, held_tensors(network), lambda tensor: torch.empty_like(tensor, device="meta"))
