"""Makes a net ready for conversion.

Requires: a net in evaluation mode with finite weights.
Ensures: a copy on the CPU, BatchNorm layers plain, re-parameterisable blocks fused; the caller's net is untouched.
"""

import copy
from collections.abc import Mapping
from typing import Any

import torch
from timm.utils.model import reparameterize_model, unfreeze
from torch import nn

from export.errors import UnfitNetError
from export.net_outputs import named_outputs
from export.trace import inside

PADS_BY_SIZE = ("2dSame", "2dSameExport")  # timm's classes
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


def require_classifies(net: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Return the logits of `net` for the pictures `x`, float32 (N, C, H, W).

    Raises: UnfitNetError when it fails, or gives no logits, or other ones the next time or in other company.
    """
    logits = _run(net, x)
    if not isinstance(logits, torch.Tensor) or logits.ndim != 2 or not logits.is_floating_point():
        got = f"{logits.dtype} of {list(logits.shape)}" if isinstance(logits, torch.Tensor) else type(logits).__name__
        raise UnfitNetError(
            f"the net must give logits, one float tensor of (N, classes); it gives {got}. "
            "Export it with raw outputs (--raw) if that is meant."
        )
    _require_steady(net, x, {"logits": logits})
    return logits


def require_outputs(net: nn.Module, x: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return all that `net` gives for the inputs `x`, float32 (N, C, H, W), by name (see net_outputs.py).

    Raises: UnfitNetError when it fails, or an output has no row for each input, or another one the next time or in
    other company.
    """
    given = named_outputs(_run(net, x))
    _require_steady(net, x, given)
    return given


def _require_steady(net: nn.Module, x: torch.Tensor, given: Mapping[str, torch.Tensor]) -> None:
    for name, value in given.items():
        _require_rows(name, value, len(x))
    singles = [list(named_outputs(_run(net, x[index : index + 1])).values()) for index in range(len(x))]
    again = list(named_outputs(_run(net, x[:1])).values())
    for index, (name, value) in enumerate(given.items()):
        if not torch.equal(singles[0][index], again[index]):
            raise UnfitNetError(_unsteady(name))
        alone = torch.cat([single[index] for single in singles])
        if alone.shape != value.shape or not _same(alone, value):
            if not torch.equal(value, list(named_outputs(_run(net, x)).values())[index]):
                raise UnfitNetError(_unsteady(name))
            raise UnfitNetError(
                f"the net's {name} for a picture depend on the other pictures of its batch, which a server chooses: "
                "does a norm use the batch's own statistics?"
            )


def _unsteady(name: str) -> str:
    return f"the net gives other {name} for the same pictures each time: is dropout on in its forward?"


def _require_rows(name: str, value: torch.Tensor, count: int) -> None:
    rows = value.shape[0] if value.ndim else 0
    if rows != count or not bool(torch.isfinite(value).all()):
        what = "are not all finite" if rows == count else f"are {rows} rows"
        raise UnfitNetError(f"the net's {name} for {count} pictures {what}: there must be a finite row for each.")


def _same(alone: torch.Tensor, value: torch.Tensor) -> bool:
    if not value.is_floating_point():
        return torch.equal(alone, value)
    return torch.allclose(alone, value, rtol=0.0, atol=COMPANY * float(value.abs().max()))


def _run(net: nn.Module, x: torch.Tensor) -> Any:
    """Return what `net` gives. Raises: UnfitNetError, naming the layer in which it fails."""
    with inside(net) as where:
        try:
            with torch.no_grad():
                return net(x)
        except UnfitNetError:
            raise
        except Exception as error:
            shape = "x".join(map(str, x.shape[1:]))
            layer = f" in its layer '{where()}'" if where() else ""
            raise UnfitNetError(
                f"the net fails on an input of {shape}{layer}: {type(error).__name__}: {error}"
            ) from error


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
