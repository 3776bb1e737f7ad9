"""Makes a net ready for conversion.

Requires: a net in evaluation mode with finite weights.
Ensures: a copy on the CPU, BatchNorm layers plain, re-parameterisable blocks fused; the caller's net is untouched.
"""

import copy

import torch
from timm.utils.model import reparameterize_model, unfreeze
from torch import nn

from export.errors import UnfitNetError

COMPANY = 1e-3  # of the largest logit: more than another batch size explains


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


def require_classifies(net: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Return the logits of `net` for the pictures `x`, float32 (N, C, H, W).

    Raises: UnfitNetError when it fails, or gives no logits, or other ones the next time or in other company.
    """
    logits = _logits(net, x)
    if not torch.equal(logits, _logits(net, x)):
        raise UnfitNetError("the net gives other logits for the same pictures each time: is dropout on in its forward?")
    alone = torch.cat([_logits(net, x[index : index + 1]) for index in range(len(x))])
    if not torch.allclose(alone, logits, rtol=0.0, atol=COMPANY * float(logits.abs().max())):
        raise UnfitNetError(
            "the net's logits for a picture depend on the other pictures of its batch, which a server chooses: "
            "does a norm use the batch's own statistics?"
        )
    return logits


def _logits(net: nn.Module, x: torch.Tensor) -> torch.Tensor:
    try:
        with torch.no_grad():
            logits = net(x)
    except Exception as error:
        shape = "x".join(map(str, x.shape[1:]))
        raise UnfitNetError(f"the net fails on its own input of {shape}: {type(error).__name__}: {error}") from error
    if not isinstance(logits, torch.Tensor) or logits.ndim != 2 or not logits.is_floating_point():
        got = f"{logits.dtype} of {list(logits.shape)}" if isinstance(logits, torch.Tensor) else type(logits).__name__
        raise UnfitNetError(f"the net must give logits, one float tensor of (N, classes); it gives {got}.")
    if len(logits) != len(x) or not bool(torch.isfinite(logits).all()):
        what = "are not all finite" if len(logits) == len(x) else f"are {len(logits)} rows"
        raise UnfitNetError(f"the net's logits for {len(x)} pictures {what}: there must be a finite row for each.")
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
