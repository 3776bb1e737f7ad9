"""Builds a copy with static shapes, for accelerators that do not support dynamic ones (Core ML, NNAPI).

Requires: an exported model.
Ensures: every input, output and intermediate value has a static, known shape; the computation is unchanged.
"""

import onnx

from export.errors import VariantError
from export.variants.graph import bare_copy
from zoo.networks.preprocessing import Preprocessing


def with_static_shapes(model: onnx.ModelProto, preprocessing: Preprocessing) -> onnx.ModelProto:
    """Return a copy of `model` for batches of one image. Raises: VariantError if a shape stays dynamic."""
    from onnxruntime.tools.onnx_model_utils import fix_output_shapes, make_input_shape_fixed

    static = bare_copy(model)
    for info in static.graph.input:
        make_input_shape_fixed(static.graph, info.name, _input_sizes(info, preprocessing))
    for output in static.graph.output:
        output.type.tensor_type.ClearField("shape")
    inferred = onnx.shape_inference.infer_shapes(static, check_type=True, strict_mode=True, data_prop=True)
    static.graph.value_info.extend(inferred.graph.value_info)
    for output, inferred_output in zip(static.graph.output, inferred.graph.output, strict=True):
        output.CopyFrom(inferred_output)
    fix_output_shapes(static)
    require_static(static)
    onnx.checker.check_model(static, full_check=True)
    return static


def require_static(model: onnx.ModelProto) -> None:
    """Reject a model in which any value has a dynamic size. Raises: VariantError."""
    infos = {info.name: info for info in (*model.graph.input, *model.graph.value_info, *model.graph.output)}
    names = [info.name for info in model.graph.input]
    names += [name for node in model.graph.node for name in node.output if name]
    dynamic = [name for name in names if name not in infos or not _is_static(infos[name])]
    if dynamic:
        raise VariantError(
            f"the shapes of '{dynamic[0]}' and of {len(dynamic) - 1} more values stay dynamic at batch size 1."
        )


def _is_static(info: onnx.ValueInfoProto) -> bool:
    tensor = info.type.tensor_type
    return tensor.HasField("shape") and all(dim.HasField("dim_value") for dim in tensor.shape.dim)


def _input_sizes(info: onnx.ValueInfoProto, preprocessing: Preprocessing) -> list[int]:
    """Return the shape of one image of the network's size: NHWC for bytes, NCHW for floats."""
    channels, height, width = preprocessing.input_size
    is_nhwc = info.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    return [1, height, width, channels] if is_nhwc else [1, channels, height, width]
