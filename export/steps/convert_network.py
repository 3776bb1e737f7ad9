"""Step 5: from a PyTorch network to an ONNX model."""

import re
from collections.abc import Mapping, Sequence

import onnx
from torch import Tensor

from export.convert.convert import convert
from export.convert.taps import before_norms
from export.errors import ConversionError, one_line
from export.onnx_model import external_data
from export.onnx_model.scopes import module_scopes
from export.steps.stages import Converted, Described

NODE_IN_ERROR = re.compile(r"node name: ([^)]*)\)")
UNSUPPORTED_TYPE = re.compile(r"has unsupported type: tensor\((\w+)\)")


def convert_network(context: Described) -> Converted:
    """Convert the network to ONNX, and attach the image preprocessing and the probabilities.

    Reads: `network`, `interface`, `runs` and `settings`.
    Adds: `model`.
    Ensures: the model is valid ONNX of the requested opset with the inputs and outputs of the interface; its nodes
    carry the paths of the modules that contain them.
    Raises: ConversionError.
    """
    settings, interface = context.settings, context.interface
    # The last size of the interface: if height and width are dynamic, they must differ from each other.
    resized = context.runs[-1].interface
    model = convert(context.network, resized, settings.opset, _taps(context), dynamic_size=settings.dynamic_size)
    model = interface.attach(model)
    _require_valid(model)
    _require_datatypes(model, context.runs[0].float32.outputs)
    return Converted(**vars(context), model=model)


def _taps(context: Described) -> Sequence[str]:
    if not context.settings.taps:
        return ()
    return before_norms(context.network, list(context.runs[-1].float32.layers.values()))


def _require_valid(model: onnx.ModelProto) -> None:
    try:
        external_data.check(model)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ConversionError(_rejection(model, error)) from error


def _require_datatypes(model: onnx.ModelProto, outputs: Mapping[str, Tensor]) -> None:
    for output in model.graph.output:
        actual = onnx.helper.tensor_dtype_to_np_dtype(output.type.tensor_type.elem_type).name
        expected = outputs[output.name].numpy().dtype.name
        if actual != expected:
            raise ConversionError(
                f"torch.onnx computes the network's output '{output.name}' as {actual}, but PyTorch's is {expected}: "
                f"cast it in the network's forward, y.to(torch.{expected})."
            )


def _rejection(model: onnx.ModelProto, error: Exception) -> str:
    """Explain why ONNX's checker rejects `model`; a datatype that an operation lacks comes from the network."""
    match = NODE_IN_ERROR.search(str(error))
    node = next((node for node in model.graph.node if match and node.name == match[1]), None)
    layer = module_scopes(node)[-1:] if node else ()
    where = f" in its layer '{layer[0]}'" if any(layer) else ""  # unknown inside torch.autocast
    if match and (datatype := UNSUPPORTED_TYPE.search(str(error))):
        return (
            f"the network computes in {datatype[1]}{where}, which ONNX's {node.op_type if node else 'operator'} does "
            "not support: remove torch.autocast or the cast, so that it computes in float32."
        )
    return f"torch.onnx wrote a model that ONNX's checker rejects{where}: {one_line(error)}"
