"""Step 8: from an ONNX model to one whose values have the names of the network's layers."""

from export.errors import dynamic_size_errors
from export.onnx_model.rename import adopt_output_copies, name_values, require_unambiguous
from export.steps.stages import Mapped, PreparationVerified
from export.verify.layer_map import map_layers


def map_model_layers(context: PreparationVerified) -> Mapped:
    """Find the output of every module among the model's values, and name the values after the layers.

    Reads: `network`, `runs` and `model`.
    Adds: `layer_map`.
    Changes: `model`, whose values are renamed.
    Ensures: every module output has an entry; a value in it was compared numerically; no layer has the name of another
    tensor that a client may request.
    Raises: UnsupportedNetworkError, ConversionError.
    """
    with dynamic_size_errors(context.settings.dynamic_size):
        layer_map = map_layers(context.model, context.network, context.runs)
        adopt_output_copies(context.model, layer_map)
        require_unambiguous(context.model, layer_map)
        name_values(context.model, layer_map)
    return Mapped(**vars(context), layer_map=layer_map)
