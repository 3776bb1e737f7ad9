"""Step 5: from a PyTorch network to an ONNX model."""

from collections.abc import Sequence

import onnx

from export.convert.convert import convert
from export.convert.taps import before_norms
from export.errors import ConversionError
from export.interface.check_sizes import require_larger_size
from export.onnx_model import external_data
from export.steps.stages import Converted, Described


def convert_network(context: Described) -> Converted:
    """Convert the network to ONNX, and attach the image preprocessing and the probabilities.

    Reads: `network`, `interface`, `runs` and `settings`.
    Adds: `model`.
    Ensures: the model is valid ONNX of the requested opset with the inputs and outputs of the interface; its nodes
    carry the paths of the modules that contain them.
    Raises: ConversionError; UnsupportedNetworkError if a layer accepts only the network's own size.
    """
    settings, interface = context.settings, context.interface
    # The last size of the interface: if height and width are dynamic, they must differ from each other.
    resized = context.runs[-1].interface
    try:
        model = convert(context.network, resized, settings.opset, _taps(context), dynamic_size=settings.dynamic_size)
    except ConversionError:
        if settings.dynamic_size:
            require_larger_size(context.network, interface)  # its error names the layer
        raise
    model = interface.attach(model)
    _require_valid(model)
    return Converted(**vars(context), model=model)


def _taps(context: Described) -> Sequence[str]:
    if not context.settings.taps:
        return ()
    return before_norms(context.network, list(context.runs[-1].small_batch.layers.values()))


def _require_valid(model: onnx.ModelProto) -> None:
    try:
        external_data.check(model)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ConversionError(f"torch.onnx wrote a model that ONNX's checker rejects: {error}") from error
