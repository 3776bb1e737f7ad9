"""Removes and names outputs of a converted model, so that they are those of the interface."""

import onnx

from export.convert.passes.graph_pass import Conversion
from export.errors import ConversionError
from export.onnx_model import rename


def drop_tap_outputs(model: onnx.ModelProto, conversion: Conversion) -> None:
    """Remove the outputs of tapped modules (see taps.py).

    Requires: the network's own outputs come first.
    Ensures: tapped values are still computed, but are not outputs of the model.
    """
    if conversion.taps:
        del model.graph.output[len(conversion.output_names) :]


def name_outputs(model: onnx.ModelProto, conversion: Conversion) -> None:
    """Give the outputs the names of the interface.

    Requires: the model has the network's own outputs only, in order.
    Ensures: outputs are distinct values with the names `conversion.output_names`. Raises: ConversionError.
    """
    expected, actual = len(conversion.output_names), len(model.graph.output)
    if actual != expected:
        raise ConversionError(
            f"the network returns {expected} tensors, but torch.onnx wrote a model with {actual} outputs."
        )
    rename.name_outputs(model, conversion.output_names)
