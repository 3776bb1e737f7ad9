"""A twin of fixed sizes, for devices whose accelerators take no free ones (Core ML, NNAPI).

Requires: an exported model.
Ensures: every input, output and intermediate value has a fixed, known shape; nothing is computed differently.
"""

import onnx

from export.errors import VariantError
from export.variants.graph import bare_copy
from zoo.networks.preprocessing import Preprocessing


def fix(model: onnx.ModelProto, preprocessing: Preprocessing) -> onnx.ModelProto:
    """Return `model` for one image at a time. Raises: VariantError where a shape stays free."""
    from onnxruntime.tools.onnx_model_utils import fix_output_shapes, make_input_shape_fixed

    twin = bare_copy(model)
    for info in twin.graph.input:
        make_input_shape_fixed(twin.graph, info.name, _sizes(info, preprocessing))
    for output in twin.graph.output:
        output.type.tensor_type.ClearField("shape")
    inferred = onnx.shape_inference.infer_shapes(twin, check_type=True, strict_mode=True, data_prop=True)
    twin.graph.value_info.extend(inferred.graph.value_info)
    for output, known in zip(twin.graph.output, inferred.graph.output, strict=True):
        output.CopyFrom(known)
    fix_output_shapes(twin)
    require_fixed(twin)
    onnx.checker.check_model(twin, full_check=True)
    return twin


def require_fixed(model: onnx.ModelProto) -> None:
    """Refuse a model with a free size anywhere. Raises: VariantError."""
    infos = {info.name: info for info in (*model.graph.input, *model.graph.value_info, *model.graph.output)}
    names = [info.name for info in model.graph.input]
    names += [name for node in model.graph.node for name in node.output if name]
    free = [name for name in names if name not in infos or not _is_fixed(infos[name])]
    if free:
        raise VariantError(f"the shape of '{free[0]}' and of {len(free) - 1} more values stays free with a batch of 1.")


def _is_fixed(info: onnx.ValueInfoProto) -> bool:
    kind = info.type.tensor_type
    return kind.HasField("shape") and all(dim.HasField("dim_value") for dim in kind.shape.dim)


def _sizes(info: onnx.ValueInfoProto, preprocessing: Preprocessing) -> list[int]:
    """One image of the network's own size, in the input's own order."""
    channels, height, width = preprocessing.input_size
    last = info.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    return [1, height, width, channels] if last else [1, channels, height, width]
