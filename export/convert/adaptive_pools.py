"""Rejects pooling to a fixed output size under a dynamic input size.

The windows of such a layer depend on the input's size, and torch.onnx writes those of its example into the graph.

Requires: a prepared network.
Ensures: each layer that pools adaptively pools an axis to one place, which is a mean or maximum, or not at all.
"""

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from export.errors import UnsupportedNetworkError
from export.tracing.arguments import Arguments
from export.tracing.run import fresh_copy
from export.tracing.trace import module_tracker

aten = torch.ops.aten
ADAPTIVE = {
    aten._adaptive_avg_pool2d.default,
    aten._adaptive_avg_pool3d.default,
    aten.adaptive_max_pool2d.default,
    aten.adaptive_max_pool3d.default,
}


def require_no_adaptive_pools(network: nn.Module, arguments: Arguments) -> None:
    """Run `network` on images that do not have its own size, and reject its first such layer.

    Raises: UnsupportedNetworkError.
    """
    network = fresh_copy(network)
    with (
        module_tracker(network) as current_path,
        _AdaptivePools(current_path) as pools,
        contextlib.suppress(Exception, SystemExit),  # a later step reports a size that the network does not accept
    ):
        arguments.call(network)
    if pools.first:
        raise UnsupportedNetworkError(
            f"the input's height and width cannot be dynamic: {pools.first}, whose windows depend on the input's size, "
            "which ONNX has no operation for: pool to a size of 1, or export at a fixed size, without --dynamic-size."
        )


class _AdaptivePools(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's class is untyped
    """Describes the first adaptive pooling to more than one place."""

    def __init__(self, current_path: Callable[[], str]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.first = ""
        self._current_path = current_path

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in ADAPTIVE and not self.first and _has_windows(args[0], args[1]):
            path, size = self._current_path(), "x".join(map(str, args[1]))
            self.first = f"the layer '{path}' pools to a size of {size}" if path else f"it pools to a size of {size}"
        return func(*args, **kwargs or {})


def _has_windows(x: torch.Tensor, output_size: Sequence[int]) -> bool:
    sizes = x.shape[-len(output_size) :]
    return any(output not in (1, size) for output, size in zip(output_size, sizes, strict=True))
