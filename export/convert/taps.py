"""Keeps in the file what a convolution gave before its BatchNorm, which the exporter would fold into one with it.

Whoever runs the file loses nothing: onnxruntime folds the two as it loads, unless the value between them is asked for.

Requires: a prepared network.
Ensures: while the block lasts, the network also gives a copy of what each tapped module gave, after its own outputs; the
exporter keeps a value that is an output. convert.py then takes those outputs away again, and their values stay.
"""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from export.tracing.trace import Output


def before_norms(network: nn.Module, outputs: Sequence[Output]) -> Sequence[str]:
    """Return the paths of the modules whose output goes straight into a BatchNorm, in order; `outputs` is one run's."""
    norms = [output for output in outputs if isinstance(network.get_submodule(output.path), _BatchNorm)]
    taken = {identity for norm in norms for identity in norm.inputs}
    makers = (
        output.path for output in outputs if output.identity in taken and not output.is_passthrough and output.path
    )
    return list(dict.fromkeys(makers))


@contextlib.contextmanager
def tapped(network: nn.Module, paths: Sequence[str]) -> Iterator[None]:
    """Make `network` give what the modules at `paths` gave, too, as long as the block lasts."""
    kept: list[torch.Tensor] = []

    def keep(_module: nn.Module, _args: Any, given: Any) -> None:
        if isinstance(given, torch.Tensor):
            kept.append(given.clone())

    def hand_over(_module: nn.Module, _args: Any, given: Any) -> Any:
        taps = tuple(kept)
        kept.clear()
        return (given, *taps)

    handles = [network.get_submodule(path).register_forward_hook(keep) for path in paths]
    if paths:
        handles.append(network.register_forward_hook(hand_over))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
