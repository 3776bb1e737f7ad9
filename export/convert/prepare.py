"""Makes a network ready for conversion.

Requires: a network in evaluation mode with finite weights.
Ensures: a copy on the CPU, BatchNorm layers plain, re-parameterisable blocks fused; the caller's network is untouched.
"""

import copy
from collections.abc import Callable

import torch
from timm.layers import unfreeze_batch_norm_2d
from timm.utils.model import reparameterize_model
from torch import nn

from export.errors import UnsupportedNetworkError

PADS_BY_SIZE = ("2dSame", "2dSameExport")  # timm's classes


def prepare(network: nn.Module) -> nn.Module:
    """Return a copy of `network` that converts cleanly. Raises: UnsupportedNetworkError."""
    _require_eval(network)
    _require_finite(network)
    _require_float32(network)
    clone = unfreeze_batch_norm_2d(_copied(network).cpu())  # timm's frozen BatchNorm would be loose Mul and Add nodes
    clone = reparameterize_model(clone)
    clone.eval()
    clone.requires_grad_(False)
    return clone


def require_free_size(network: nn.Module) -> None:
    """Refuse layers that pad by the size of what they get, as TensorFlow's "same" does.

    Each makes the size behind it a longer expression of the input's; torch.export does not come to an end with a few.

    Raises: UnsupportedNetworkError, naming the first.
    """
    for path, module in network.named_modules():
        if type(module).__name__.endswith(PADS_BY_SIZE):
            raise UnsupportedNetworkError(
                f"the input's height and width cannot be free: layer '{path}' ({type(module).__name__}) pads by the "
                "size of its input, as TensorFlow does, and torch.export does not come to an end with that. "
                "Export it for one size, without --dynamic-size."
            )


def _require_eval(network: nn.Module) -> None:
    training = [path or type(network).__name__ for path, module in network.named_modules() if module.training]
    if training:
        raise UnsupportedNetworkError(
            f"the network is in training mode ('{training[0]}' and {len(training) - 1} more modules): "
            "dropout and batch statistics would be exported as they train; call network.eval() first."
        )


def _require_finite(network: nn.Module) -> None:
    for name, tensor in network.named_parameters():
        _require_none(name, tensor, "NaN or infinite", lambda numbers: ~torch.isfinite(numbers))
    for name, buffer in network.named_buffers():  # the mask of an attention is infinite
        _require_none(name, buffer, "NaN", torch.isnan)


def _require_none(name: str, tensor: torch.Tensor, what: str, wrong: Callable[[torch.Tensor], torch.Tensor]) -> None:
    count = int(wrong(tensor).sum()) if tensor.is_floating_point() else 0
    if count:
        raise UnsupportedNetworkError(f"the weight '{name}' holds {count} values that are {what}: train it again.")


def _require_float32(network: nn.Module) -> None:
    for name, tensor in network.named_parameters():
        if tensor.is_floating_point() and tensor.dtype != torch.float32:
            kind = str(tensor.dtype).removeprefix("torch.")
            raise UnsupportedNetworkError(
                f"the weight '{name}' is {kind}, and a network is exported from float32: call network.float() first; "
                "--variants fp16 makes the smaller file."
            )


def _copied(network: nn.Module) -> nn.Module:
    try:
        return copy.deepcopy(network)
    except Exception as error:
        why = " ".join(f"{type(error).__name__}: {error}".split())
        raise UnsupportedNetworkError(f"the network cannot be copied, which every check needs: {why}.") from error
