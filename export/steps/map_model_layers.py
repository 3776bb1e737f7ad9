"""Step 7: from an ONNX model to one whose values are named after the network's layers."""

from export.errors import dynamic_size_errors
from export.onnx_model.rename import name_values
from export.steps.stages import Converted, Mapped
from export.verify.layer_map import map_layers


def map_model_layers(context: Converted) -> Mapped:
    """Find the output of every module among the model's values, and name the values after the layers.

    Reads: `network`, `runs` and `model`.
    Adds: `layer_map`.
    Changes: `model`, whose values are renamed.
    Ensures: every module output has an entry, whose value was compared numerically.
    Raises: UnsupportedNetworkError, ConversionError.
    """
    with dynamic_size_errors(context.settings.dynamic_size):
        layer_map = map_layers(context.model, context.network, context.runs)
        name_values(context.model, layer_map)
    return Mapped(**vars(context), layer_map=layer_map)
