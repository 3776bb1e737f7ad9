"""Makes a net ready for conversion.

Requires: a net in evaluation mode with finite weights.
Ensures: a copy on the CPU, BatchNorm layers plain, re-parameterisable blocks fused; the caller's net is untouched.
"""

import copy

import torch
from timm.utils.model import reparameterize_model, unfreeze
from torch import nn

from export.errors import UnfitNetError

PADS_BY_SIZE = ("2dSame", "2dSameExport")  # timm's classes


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


def require_free_size(net: nn.Module) -> None:
    """Refuse layers that pad by the size of what they get, as TensorFlow's "same" does.

    Each makes the size behind it a longer expression of the input's; torch.export does not come to an end with a few.

    Raises: UnfitNetError, naming the first.
    """
    for path, module in net.named_modules():
        if type(module).__name__.endswith(PADS_BY_SIZE):
            raise UnfitNetError(
                f"the input's height and width cannot be free: layer '{path}' ({type(module).__name__}) pads by the "
                "size of its input, as TensorFlow does, and torch.export does not come to an end with that. "
                "Export it for one size, without --dynamic-size."
            )


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
