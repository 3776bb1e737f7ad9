"""Runs a model as it is served, and once more without optimisation for the values of its layers."""

from collections.abc import Iterator, Mapping

import onnx

from export.arrays import Array
from export.interface.interface import Inputs
from export.onnx_model.runtime import Runtime
from export.onnx_model.stages import StagedRuntime


class ModelRunner:
    """Runs the model optimised, as served, and unoptimised, a few nodes at a time."""

    def __init__(self, model: onnx.ModelProto) -> None:
        """Load the model. Raises: ConversionError."""
        self._served, self._unoptimised = Runtime(model), StagedRuntime(model)

    def outputs(self, inputs: Inputs) -> Mapping[str, Array]:
        """Return the outputs as served. Raises: ConversionError."""
        return self._served.run(inputs)

    def values(self, inputs: Inputs) -> Iterator[Mapping[str, Array]]:
        """Yield the values of a few nodes, each time in a dict that the next step empties. Raises: ConversionError."""
        return self._unoptimised.run(inputs)
