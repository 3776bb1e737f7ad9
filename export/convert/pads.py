"""Keeps each Pad before a MaxPool as it is.

onnxruntime takes a Pad of zeros into the pooling behind it, and a MaxPool pads with minus infinity: where the network's
numbers are negative, the file would give others than the network. A Pad whose axes are named is left alone.
"""

import numpy as np
import onnx
from onnx import numpy_helper

AXES_INPUT = 3  # of a Pad, after the data, the widths and the value; since opset 18


def keep_pads(model: onnx.ModelProto) -> None:
    """Name the axes, which are all, of every Pad whose output a MaxPool takes."""
    pools = {node.input[0]: node for node in model.graph.node if node.op_type == "MaxPool"}
    for node in model.graph.node:
        if node.op_type == "Pad" and node.output[0] in pools and len(node.input) <= AXES_INPUT:
            _name_axes(model.graph, node, _rank(pools[node.output[0]]))


def _rank(pool: onnx.NodeProto) -> int:
    return 2 + next(len(attribute.ints) for attribute in pool.attribute if attribute.name == "kernel_shape")


def _name_axes(graph: onnx.GraphProto, pad: onnx.NodeProto, rank: int) -> None:
    name = f"{pad.output[0]}/axes"
    graph.initializer.append(numpy_helper.from_array(np.arange(rank, dtype=np.int64), name))
    pad.input.extend([""] * (AXES_INPUT - len(pad.input)) + [name])
