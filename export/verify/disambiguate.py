"""Tells values apart that are equal for all telling inputs: a clamp, or a ReLU on numbers that are seldom negative.

Requires: a prepared network, and the model that was made of it.
Ensures: nothing is run unless asked for; a value is only ruled out where PyTorch, run on the same inputs, gives others.
"""

import functools
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper
from torch import nn

from export.errors import ConversionError, UnsupportedNetworkError
from export.interface.interface import Interface
from export.onnx_model.runtime import Runtime, every_value
from export.tracing.run import Layers, run_traced, unused

CLOSE = 1e-3  # of the largest number, which float32 keeps in any order

Array = npt.NDArray[Any]


class OutOfRangeProbe:
    """What the network's layers and the model's values are for inputs that lie far beyond the telling ones."""

    def __init__(self, model: onnx.ModelProto, network: nn.Module, interface: Interface) -> None:
        self._model, self._net, self._interface = model, network, interface

    def tells(self, values: Iterable[str]) -> bool:
        """Whether `values` may differ for some input: adding weights that are all 0 to one of them changes nothing."""
        return len({self._sources.get(value, value) for value in values}) > 1

    def may_hold(self, layer: str, value: str) -> bool:
        """Whether `value` may be what `layer` gave; so it is where neither can be computed."""
        layers, values = self._ran
        if layer not in layers or value not in values:
            return True
        expected, got = layers[layer].value, values[value]
        return expected.shape != got.shape or all(map(_close, expected, got)) if expected.ndim else True

    @functools.cached_property
    def _sources(self) -> Mapping[str, str]:
        """What a value is a copy of, where weights that are all 0 are added to that, as biases are at first."""
        graph = self._model.graph
        biases = (weight for weight in graph.initializer if len(weight.dims) == 1)
        zeros = {bias.name for bias in biases if not numpy_helper.to_array(bias).any()}
        sources: dict[str, str] = {}
        for node in graph.node:
            taken = [name for name in node.input if name not in zeros]
            if node.op_type == "Add" and len(taken) == 1:
                sources[node.output[0]] = sources.get(taken[0], taken[0])
        return sources

    @functools.cached_property
    def _ran(self) -> tuple[Layers, Mapping[str, Array]]:
        inputs = self._interface.far()
        try:
            _, layers = run_traced(unused(self._net), self._interface.for_net(inputs))
            values = every_value(self._model)
            got = Runtime(self._model, values, optimise=False).run({self._interface.input_name: inputs}, values)
        except (UnsupportedNetworkError, ConversionError):
            return {}, {}  # what a network cannot take tells nothing
        return layers, {name: each for name, each in got.items() if isinstance(each, np.ndarray)}


def _close(expected: Array, got: Array) -> bool:
    """Whether what one input gave is the same, up to float32; what is not finite tells nothing."""
    left, right = np.asarray(expected, np.float64), np.asarray(got, np.float64)
    if not np.all(np.isfinite(left)):
        return True
    return bool(np.all(np.abs(left - right) <= CLOSE * np.max(np.abs(left), initial=0.0)))
