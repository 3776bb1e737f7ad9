"""Adds preprocessing and probabilities to a converted model, so that clients need not implement them.

Requires: a converted model with the float NCHW input `x` and the output `logits`.
Ensures: the input is `image`, uint8 NHWC; the outputs are `logits` and `probabilities`; normalisation is in the graph.
"""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from export.interface.head import Head
from export.names import IMAGE, IMAGE_MEAN, IMAGE_SCALE, INPUT, LOGITS, PROBABILITIES
from export.onnx_model.rename import rename_conflicting_weights
from zoo.networks.preprocessing import Preprocessing

NORMALISED = "normalised"
CONSTANTS = IMAGE_MEAN, IMAGE_SCALE


def attach(model: onnx.ModelProto, preprocessing: Preprocessing, head: Head) -> onnx.ModelProto:
    """Return a copy of `model` that accepts images, and also outputs the probabilities that `head` computes."""
    attached = onnx.ModelProto()
    attached.CopyFrom(model)
    graph = attached.graph
    rename_conflicting_weights(graph, {*CONSTANTS, *(weight.name for weight in head.constants())})
    _rename_input(graph)
    nodes = [*_normalise_nodes(), *graph.node, *head.nodes(LOGITS, PROBABILITIES)]
    del graph.node[:]
    graph.node.extend(nodes)
    graph.initializer.extend([*_constants(preprocessing), *head.constants()])
    _replace_input(graph)
    _add_probabilities(graph)
    return attached


def _normalise_nodes() -> list[onnx.NodeProto]:
    """Return nodes for (x - 255 mean) / (255 std), channels first; bytes are transposed before the cast to float."""
    return [
        helper.make_node("Transpose", [IMAGE], ["image_nchw"], "image_nchw", perm=[0, 3, 1, 2]),
        helper.make_node("Cast", ["image_nchw"], ["image_float"], "image_float", to=TensorProto.FLOAT),
        helper.make_node("Sub", ["image_float", IMAGE_MEAN], ["image_centred"], "image_centred"),
        helper.make_node("Mul", ["image_centred", IMAGE_SCALE], [NORMALISED], NORMALISED),
    ]


def _constants(preprocessing: Preprocessing) -> list[onnx.TensorProto]:
    mean = np.array(preprocessing.mean, np.float64) * 255
    scale = 1 / (np.array(preprocessing.std, np.float64) * 255)
    shape = (1, -1, 1, 1)
    return [
        numpy_helper.from_array(mean.astype(np.float32).reshape(shape), IMAGE_MEAN),
        numpy_helper.from_array(scale.astype(np.float32).reshape(shape), IMAGE_SCALE),
    ]


def _rename_input(graph: onnx.GraphProto) -> None:
    for node in graph.node:
        for index, name in enumerate(node.input):
            if name == INPUT:
                node.input[index] = NORMALISED


def _replace_input(graph: onnx.GraphProto) -> None:
    """Replace the network's input (N, C, H, W) by images (N, H, W, C) with the same dynamic dimensions."""
    dims = graph.input[0].type.tensor_type.shape.dim
    batch, channels, height, width = (dim.dim_param or dim.dim_value for dim in dims)
    del graph.input[:]
    shape = [batch, height, width, channels]
    graph.input.append(helper.make_tensor_value_info(IMAGE, TensorProto.UINT8, shape))


def _add_probabilities(graph: onnx.GraphProto) -> None:
    """Add the output `probabilities`, which has the type and shape of the logits."""
    info = onnx.ValueInfoProto()
    info.CopyFrom(graph.output[0])
    info.name = PROBABILITIES
    graph.output.append(info)
