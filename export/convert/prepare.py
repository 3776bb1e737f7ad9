"""Makes a net ready for conversion.

Requires: a net in evaluation mode with finite weights.
Ensures: a copy on the CPU, BatchNorm layers plain, re-parameterisable blocks fused; the caller's net is untouched.
"""

import copy
from collections.abc import Callable

import torch
from timm.layers import unfreeze_batch_norm_2d
from timm.utils.model import reparameterize_model
from torch import nn

from export.errors import UnfitNetError

PADS_BY_SIZE = ("2dSame", "2dSameExport")  # timm's classes


def prepare(net: nn.Module) -> nn.Module:
    """Return a copy of `net` that converts cleanly. Raises: UnfitNetError."""
    _require_eval(net)
    _require_finite(net)
    _require_float32(net)
    clone = unfreeze_batch_norm_2d(_copied(net).cpu())  # timm's frozen BatchNorm would be loose Mul and Add nodes
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
    for name, tensor in net.named_parameters():
        _require_none(name, tensor, "NaN or infinite", lambda numbers: ~torch.isfinite(numbers))
    for name, buffer in net.named_buffers():  # the mask of an attention is infinite
        _require_none(name, buffer, "NaN", torch.isnan)


def _require_none(name: str, tensor: torch.Tensor, what: str, wrong: Callable[[torch.Tensor], torch.Tensor]) -> None:
    count = int(wrong(tensor).sum()) if tensor.is_floating_point() else 0
    if count:
        raise UnfitNetError(f"the weight '{name}' holds {count} values that are {what}: train it again.")


def _require_float32(net: nn.Module) -> None:
    for name, tensor in net.named_parameters():
        if tensor.is_floating_point() and tensor.dtype != torch.float32:
            kind = str(tensor.dtype).removeprefix("torch.")
            raise UnfitNetError(
                f"the weight '{name}' is {kind}, and a net is exported from float32: call net.float() first; "
                "--variants fp16 makes the smaller file."
            )


def _copied(net: nn.Module) -> nn.Module:
    try:
        return copy.deepcopy(net)
    except Exception as error:
        why = " ".join(f"{type(error).__name__}: {error}".split())
        raise UnfitNetError(f"the net cannot be copied, which every check needs: {why}.") from error
