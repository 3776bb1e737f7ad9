"""Separates values that coincide on every probe input, such as the input and output of a clamp that none reaches.

Requires: a prepared network, and the model that was made from it.
Ensures: the network and the model are run only if needed; a value is rejected only if PyTorch returns a different one
for the same inputs.
"""

import functools
from collections.abc import Iterable, Mapping

import numpy as np
import onnx
from onnx import numpy_helper
from torch import nn

from export.arrays import Array
from export.errors import ConversionError, UnsupportedNetworkError
from export.interface.interface import Interface
from export.onnx_model.runtime import Runtime, value_names
from export.tracing.run import Layers, fresh_copy, run_traced

RTOL = 1e-3  # of the largest magnitude: float32 stays within it in any order of summation


class OutOfRangeProbe:
    """The network's layers and the model's values for inputs that exceed the range of the probe inputs."""

    def __init__(self, model: onnx.ModelProto, network: nn.Module, interface: Interface) -> None:
        self._model, self._network, self._interface = model, network, interface

    def can_separate(self, values: Iterable[str]) -> bool:
        """Return whether `values` may differ for some input; a value plus weights of 0 counts as the same value."""
        return len({self._sources.get(value, value) for value in values}) > 1

    def may_hold(self, layer: str, value: str) -> bool:
        """Return whether `value` may be the output of `layer`; true if one of them cannot be computed."""
        layers, values = self._results
        if layer not in layers or value not in values:
            return True
        expected, actual = layers[layer].value, values[value]
        if expected.shape != actual.shape or not expected.ndim:
            return True
        return all(map(_is_close, expected, actual))

    @functools.cached_property
    def _sources(self) -> Mapping[str, str]:
        """The other value, for each value that is another one plus weights of 0, as biases are initially."""
        graph = self._model.graph
        biases = (weight for weight in graph.initializer if len(weight.dims) == 1)
        zeros = {bias.name for bias in biases if not numpy_helper.to_array(bias).any()}
        sources: dict[str, str] = {}
        for node in graph.node:
            inputs = [name for name in node.input if name not in zeros]
            if node.op_type == "Add" and len(inputs) == 1:
                sources[node.output[0]] = sources.get(inputs[0], inputs[0])
        return sources

    @functools.cached_property
    def _results(self) -> tuple[Layers, Mapping[str, Array]]:
        inputs = self._interface.out_of_range_inputs()
        try:
            _, layers = run_traced(fresh_copy(self._network), self._interface.arguments(inputs))
            names = value_names(self._model)
            values = Runtime(self._model, names, optimise=False).run(inputs, names)
        except (UnsupportedNetworkError, ConversionError):
            return {}, {}  # these inputs cannot separate values
        return layers, {name: value for name, value in values.items() if isinstance(value, np.ndarray)}


def _is_close(expected: Array, actual: Array) -> bool:
    """Return whether the results for one input agree within float32; true if the expected result is not finite."""
    left, right = np.asarray(expected, np.float64), np.asarray(actual, np.float64)
    if not np.all(np.isfinite(left)):
        return True
    return bool(np.all(np.abs(left - right) <= RTOL * np.max(np.abs(left), initial=0.0)))
