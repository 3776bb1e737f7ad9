"""Runs a model as it is served, and once more without optimisation for the values of its layers.

Requires: a model whose layer map names the value of each layer.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import onnx

from export.arrays import Array
from export.interface.interface import Inputs
from export.onnx_model.runtime import Runtime
from protos import manifest


@dataclass(frozen=True)
class ModelRun:
    """The results of the model for one batch: the outputs as served, and the layers' values without optimisation."""

    outputs: Mapping[str, Array]
    values: Mapping[str, Array]


class ModelRunner:
    """Runs the model optimised, as served, and unoptimised with every layer's value as an output."""

    def __init__(self, model: onnx.ModelProto, layer_map: manifest.LayerMap) -> None:
        """Load both. Raises: ConversionError."""
        values = dict.fromkeys(layer.value for layer in layer_map.layers if layer.value)
        self._served = Runtime(model)
        self._unoptimised = Runtime(model, values, optimise=False)

    def run(self, inputs: Inputs) -> ModelRun:
        """Return the results for `inputs`. Raises: ConversionError."""
        return ModelRun(self._served.run(inputs), self._unoptimised.run(inputs))
