"""Prepares a network for conversion.

Requires: a network in evaluation mode with finite float32 weights (see export/reference/cast.py).
Ensures: a copy on the CPU with ordinary BatchNorm layers and re-parameterised blocks; the original is unchanged.
"""

from collections.abc import Callable

import torch
from torch import nn

from export.convert.replace_modules import fix_parametrizations, reparameterize, thaw_batch_norms
from export.errors import UnsupportedNetworkError
from export.tracing.run import deep_cpu_copy

PADS_BY_SIZE = ("2dSame", "2dSameExport")  # endings of timm's class names


def prepare(network: nn.Module, *, keep_branches: bool = False) -> nn.Module:
    """Return a copy of `network` that can be converted; `keep_branches` does not re-parameterise blocks.

    Raises: UnsupportedNetworkError.
    """
    _require_eval(network)
    _require_finite(network)
    prepared = thaw_batch_norms(fix_parametrizations(deep_cpu_copy(network)))
    if not keep_branches:
        prepared = reparameterize(prepared)
    prepared.eval()
    prepared.requires_grad_(False)
    return prepared


def require_no_size_padding(network: nn.Module) -> None:
    """Reject layers that pad by the size of their input, like TensorFlow's "same" padding.

    The sizes after such a layer are longer expressions of the input's size; with several of these layers torch.export
    does not terminate in reasonable time.

    Raises: UnsupportedNetworkError, which names the first such layer.
    """
    for path, module in network.named_modules():
        if type(module).__name__.endswith(PADS_BY_SIZE):
            raise UnsupportedNetworkError(
                f"the input's height and width cannot be dynamic: layer '{path}' ({type(module).__name__}) pads by the "
                "size of its input, as TensorFlow does, for which torch.export takes too long. "
                "Export it at a fixed size, without --dynamic-size."
            )


def _require_eval(network: nn.Module) -> None:
    training = [path or type(network).__name__ for path, module in network.named_modules() if module.training]
    if training:
        raise UnsupportedNetworkError(
            f"the network is in training mode ('{training[0]}' and {len(training) - 1} more modules): "
            "dropout and batch statistics would be exported in training mode; call network.eval() first."
        )


def _require_finite(network: nn.Module) -> None:
    for name, parameter in network.named_parameters():
        _require_no_element(name, parameter, "NaN or infinite", lambda tensor: ~torch.isfinite(tensor))
    for name, buffer in network.named_buffers():  # the mask of an attention layer may be infinite
        _require_no_element(name, buffer, "NaN", torch.isnan)


def _require_no_element(
    name: str, tensor: torch.Tensor, description: str, is_invalid: Callable[[torch.Tensor], torch.Tensor]
) -> None:
    count = int(is_invalid(tensor.detach()).sum()) if tensor.is_floating_point() else 0
    if count:
        raise UnsupportedNetworkError(
            f"the weight '{name}' holds {count} values that are {description}: train the network again."
        )
