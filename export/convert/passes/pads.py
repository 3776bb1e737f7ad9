"""Prevents onnxruntime from fusing a Pad into the MaxPool after it.

onnxruntime fuses a Pad of zeros into the following pooling, but a MaxPool pads with minus infinity: where the values
are negative, the file's results would differ from the network's. It does not fuse a Pad with explicit axes.
"""

import numpy as np
import onnx
from onnx import numpy_helper

from export.convert.passes.graph_pass import Conversion

AXES_INPUT = 3  # index of a Pad's input `axes`, after data, pads and constant_value; since opset 18


def keep_pads(model: onnx.ModelProto, _conversion: Conversion) -> None:
    """Add explicit axes, which are all axes, to every Pad whose output is the input of a MaxPool.

    Requires: opset 18 or later.
    Ensures: the model computes the same function; onnxruntime keeps these Pads.
    """
    pools = {node.input[0]: node for node in model.graph.node if node.op_type == "MaxPool"}
    for node in model.graph.node:
        if node.op_type == "Pad" and node.output[0] in pools and len(node.input) <= AXES_INPUT:
            _add_axes(model.graph, node, _rank(pools[node.output[0]]))


def _rank(pool: onnx.NodeProto) -> int:
    return 2 + next(len(attribute.ints) for attribute in pool.attribute if attribute.name == "kernel_shape")


def _add_axes(graph: onnx.GraphProto, pad: onnx.NodeProto, rank: int) -> None:
    name = f"{pad.output[0]}/axes"
    graph.initializer.append(numpy_helper.from_array(np.arange(rank, dtype=np.int64), name))
    pad.input.extend([""] * (AXES_INPUT - len(pad.input)) + [name])
