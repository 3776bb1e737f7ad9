"""Separates values that coincide on every probe input, such as the input and output of a clamp that none reaches.

Requires: a prepared network, and the model that was made from it.
Ensures: the network and the model are run only if needed; a value is rejected only if PyTorch returns a different one
for the same inputs, and another value agrees with PyTorch there.
"""

import functools
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper
from torch import nn

from export.arrays import Array
from export.errors import ConversionError, UnsupportedNetworkError
from export.interface.interface import Inputs, Interface
from export.onnx_model.runtime import Runtime, value_names
from export.tracing.run import Layers, fresh_copy, run_traced

RTOL = 1e-3  # of the largest magnitude: float32 stays within it in any order of summation


class Separation:
    """The network's layers and the model's values for inputs that exceed, or are at the ends of, the usual range."""

    def __init__(self, model: onnx.ModelProto, network: nn.Module, interface: Interface) -> None:
        self._model, self._network, self._interface = model, network, interface

    def candidates(self, layer: str, values: Sequence[str]) -> set[str]:
        """Return those of `values` that agree with the output of `layer` on every input that separates them.

        An input on which none agrees, such as one that a norm amplifies, separates none.
        """
        if len({self._sources.get(value, value) for value in values}) < 2:
            return set(values)
        close = np.stack([self._rows_that_agree(layer, value) for value in values])
        separating = close.any(axis=0)
        return {value for value, rows in zip(values, close, strict=True) if rows[separating].all()} or set(values)

    def _rows_that_agree(self, layer: str, value: str) -> npt.NDArray[np.bool_]:
        """Return for each input whether `value` may be the output of `layer`; true if one cannot be computed."""
        layers, values = self._results
        count = len(next(iter(self._inputs.values())))
        if layer not in layers or value not in values or layers[layer].value.shape != values[value].shape:
            return np.ones(count, np.bool_)
        groups = count if values[value].size % count == 0 else 1  # a layer need not have a row per input
        rows = (array.reshape(groups, -1) for array in (layers[layer].value, values[value]))
        return np.broadcast_to(np.array(list(map(_is_close, *rows)), np.bool_), count)

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
    def _inputs(self) -> Inputs:
        batches = [self._interface.out_of_range_inputs(), *self._interface.extreme_inputs().values()]
        return {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}

    @functools.cached_property
    def _results(self) -> tuple[Layers, Mapping[str, Array]]:
        try:
            _, layers = run_traced(fresh_copy(self._network), self._interface.arguments(self._inputs))
            names = value_names(self._model)
            values = Runtime(self._model, names, optimise=False).run(self._inputs, names)
        except (UnsupportedNetworkError, ConversionError):
            return {}, {}  # these inputs cannot separate values
        return layers, {name: value for name, value in values.items() if isinstance(value, np.ndarray)}


def _is_close(expected: Array, actual: Array) -> bool:
    """Return whether the results for one input agree within float32; true if the expected result is not finite."""
    left, right = np.asarray(expected, np.float64), np.asarray(actual, np.float64)
    if not np.all(np.isfinite(left)):
        return True
    return bool(np.all(np.abs(left - right) <= RTOL * np.max(np.abs(left), initial=0.0)))
