"""Separates values that coincide on every probe input, such as the input and output of a clamp that none reaches.

Requires: a prepared network, and the model that was made from it.
Ensures: the network and the model are run only if needed; a value is rejected only if PyTorch returns a different one
for the same inputs, and another value agrees with PyTorch there.
"""

import functools
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper
from torch import nn

from export.arrays import Array
from export.errors import ConversionError, UnsupportedNetworkError
from export.interface.interface import Inputs, Interface
from export.onnx_model.stages import StagedRuntime
from export.tracing.run import Layers, fresh_copy, run_traced

RTOL = 1e-3  # of the largest magnitude: float32 stays within it in any order of summation

Pair = tuple[str, str]  # the names of a layer and of a value


class Separation:
    """The network's layers and the model's values for inputs that exceed, or are at the ends of, the usual range."""

    def __init__(self, model: onnx.ModelProto, network: nn.Module, interface: Interface, pairs: Iterable[Pair]) -> None:
        """`pairs` are the layers and values that coincide on every probe input."""
        self._model, self._network, self._interface = model, network, interface
        self._layers: defaultdict[str, list[str]] = defaultdict(list)  # by the value that may be their output
        for layer, value in pairs:
            self._layers[value].append(layer)

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
        return np.array([(layer, value) not in refuted for refuted in self._refuted], np.bool_)

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
    def _refuted(self) -> list[set[Pair]]:
        """The pairs that differ, for each input; these run one by one, because the values of all take gigabytes."""
        network, runtime = fresh_copy(self._network), StagedRuntime(self._model)
        return [self._differences(network, runtime, inputs) for inputs in self._single_inputs()]

    def _single_inputs(self) -> Iterator[Inputs]:
        for batch in (self._interface.out_of_range_inputs(), *self._interface.extreme_inputs().values()):
            for row in range(len(next(iter(batch.values())))):
                yield {name: array[row : row + 1] for name, array in batch.items()}

    def _differences(self, network: nn.Module, runtime: StagedRuntime, inputs: Inputs) -> set[Pair]:
        try:
            _, layers = run_traced(network, self._interface.arguments(inputs))
            return {
                (layer, value)
                for values in runtime.run(inputs)
                for value, array in values.items()
                for layer in self._layers[value]
                if _differ(layers, layer, array)
            }
        except (UnsupportedNetworkError, ConversionError):
            return set()  # this input cannot separate values


def _differ(layers: Layers, name: str, actual: Array) -> bool:
    if name not in layers or layers[name].value.shape != actual.shape:
        return False
    return not _is_close(layers[name].value, actual)


def _is_close(expected: Array, actual: Array) -> bool:
    """Return whether the results for one input agree within float32; true if the expected result is not finite."""
    dtype = np.result_type(expected.dtype, np.float32)
    with np.errstate(invalid="ignore", over="ignore"):
        scale = np.max(np.abs(np.asarray(expected, dtype)), initial=0.0)
        difference = np.max(np.abs(np.subtract(expected, actual, dtype=dtype)), initial=0.0)
    return not np.isfinite(scale) or bool(difference <= RTOL * scale)
