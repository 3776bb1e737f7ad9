"""Finds the nodes of a model that draw random numbers."""

from collections.abc import Mapping

import onnx
from onnx import numpy_helper

from export.arrays import Array
from export.onnx_model.scopes import module_scopes

RANDOM = frozenset(
    ("Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike")
)
TRAINING_MODE = 2  # index of Dropout's input


def random_nodes(model: onnx.ModelProto) -> list[tuple[str, str]]:
    """Return operation and innermost module of each node that draws random numbers, a dropout in training included."""
    flags = _constant_flags(model.graph)
    return [
        (node.op_type, next(iter(module_scopes(node)[-1:]), ""))
        for node in model.graph.node
        if node.op_type in RANDOM or _is_active_dropout(node, flags)
    ]


def _is_active_dropout(node: onnx.NodeProto, flags: Mapping[str, Array]) -> bool:
    if node.op_type != "Dropout" or len(node.input) <= TRAINING_MODE or not node.input[TRAINING_MODE]:
        return False
    flag = flags.get(node.input[TRAINING_MODE])
    return flag is None or bool(flag.any())


def _constant_flags(graph: onnx.GraphProto) -> dict[str, Array]:
    """Return the boolean constants of a graph by name."""
    tensors = {weight.name: weight for weight in graph.initializer if weight.data_type == onnx.TensorProto.BOOL}
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute[0].t.data_type == onnx.TensorProto.BOOL:
            tensors[node.output[0]] = node.attribute[0].t
    return {name: numpy_helper.to_array(tensor) for name, tensor in tensors.items()}
