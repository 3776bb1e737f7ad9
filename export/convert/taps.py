"""Keeps the outputs of convolutions before a BatchNorm in the file, instead of folding the two.

This costs no speed: onnxruntime folds them when it loads the file, unless the value between them is requested.

Requires: a prepared network.
Ensures: inside `tapped`, the network returns copies of the tapped modules' outputs after its own outputs, so that the
exporter keeps these values. The pass `drop_tap_outputs` then removes these outputs, but not the values.
"""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from export.tracing.trace import TensorRecord


def before_norms(network: nn.Module, records: Sequence[TensorRecord]) -> Sequence[str]:
    """Return the paths of modules whose output is the input of a BatchNorm, in order of the `records` of one run."""
    norms = [record for record in records if isinstance(network.get_submodule(record.path), _BatchNorm)]
    norm_inputs = {identity for norm in norms for identity in norm.inputs}
    paths = (
        record.path
        for record in records
        if record.identity in norm_inputs and not record.is_passthrough and record.path
    )
    return list(dict.fromkeys(paths))


@contextlib.contextmanager
def tapped(network: nn.Module, paths: Sequence[str]) -> Iterator[None]:
    """Make `network` also return the outputs of the modules at `paths`, inside the block."""
    tapped_outputs: list[torch.Tensor] = []

    def record(_module: nn.Module, _args: Any, output: Any) -> None:
        if isinstance(output, torch.Tensor):
            tapped_outputs.append(output.clone())

    def append_taps(_module: nn.Module, _args: Any, output: Any) -> Any:
        taps = tuple(tapped_outputs)
        tapped_outputs.clear()
        return (output, *taps)

    handles = [network.get_submodule(path).register_forward_hook(record) for path in paths]
    if paths:
        handles.append(network.register_forward_hook(append_taps))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
