"""Makes a net ready for conversion.

Requires: a net in evaluation mode with finite weights.
Ensures: a copy on the CPU, BatchNorm layers plain, re-parameterisable blocks fused; the caller's net is untouched.
"""

import copy

import torch
from timm.utils.model import reparameterize_model, unfreeze
from torch import nn

from export.errors import UnfitNetError


def prepare(net: nn.Module) -> nn.Module:
    """Return a copy of `net` that converts cleanly. Raises: UnfitNetError."""
    _require_eval(net)
    _require_finite(net)
    clone = copy.deepcopy(net).cpu()
    unfreeze(clone)  # timm's frozen BatchNorm would export as loose Mul and Add nodes
    clone = reparameterize_model(clone)
    clone.eval()
    clone.requires_grad_(False)
    return clone


def require_runs(net: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Return the logits of `net` for `x`. Raises: UnfitNetError when it fails, or gives something else."""
    try:
        with torch.no_grad():
            logits = net(x)
    except Exception as error:
        shape = "x".join(map(str, x.shape[1:]))
        raise UnfitNetError(f"the net fails on its own input of {shape}: {type(error).__name__}: {error}") from error
    if not isinstance(logits, torch.Tensor) or logits.ndim != 2 or not logits.is_floating_point():
        got = f"{logits.dtype} of {list(logits.shape)}" if isinstance(logits, torch.Tensor) else type(logits).__name__
        raise UnfitNetError(f"the net must give logits, one float tensor of (N, classes); it gives {got}.")
    return logits


def _require_eval(net: nn.Module) -> None:
    training = [path or type(net).__name__ for path, module in net.named_modules() if module.training]
    if training:
        raise UnfitNetError(
            f"the net is in training mode ('{training[0]}' and {len(training) - 1} more modules): "
            "dropout and batch statistics would be exported as they train; call net.eval() first."
        )


def _require_finite(net: nn.Module) -> None:
    for name, tensor in net.state_dict().items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            count = int((~torch.isfinite(tensor)).sum())
            raise UnfitNetError(f"the weight '{name}' holds {count} values that are NaN or infinite: train it again.")
