"""What every variant needs to do to a graph: order its nodes, find its values, carry its layer map over."""

import heapq
from collections import defaultdict
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import onnx
import torch
from google.protobuf import json_format

from export.names import LAYERS_KEY
from protos import manifest
from zoo.networks.preprocessing import Preprocessing

Images = npt.NDArray[np.uint8]


def bare_copy(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy without the shapes and types of its intermediate values, which a changed graph would belie."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    del copy.graph.value_info[:]
    return copy


def values(model: onnx.ModelProto) -> set[str]:
    """Return the names of all values that nodes compute."""
    return {name for node in model.graph.node for name in node.output if name}


def sort_nodes(graph: onnx.GraphProto) -> None:
    """Put every node behind those whose values it takes; what is free to choose stays in the order that it had."""
    nodes = list(graph.node)
    made_by = {name: index for index, node in enumerate(nodes) for name in node.output if name}
    waits = [{made_by[name] for name in node.input if name in made_by} for node in nodes]
    waiting: defaultdict[int, list[int]] = defaultdict(list)
    for index, needed in enumerate(waits):
        for other in needed:
            waiting[other].append(index)
    ready = [index for index, needed in enumerate(waits) if not needed]
    order: list[int] = []
    while ready:
        index = heapq.heappop(ready)
        order.append(index)
        for later in waiting[index]:
            waits[later].discard(index)
            if not waits[later]:
                heapq.heappush(ready, later)
    ordered = [nodes[index] for index in order]
    del graph.node[:]
    graph.node.extend(ordered)


def drop_unused_weights(graph: onnx.GraphProto) -> None:
    """Remove the weights that no node takes and that are no output."""
    used = {name for node in graph.node for name in node.input} | {output.name for output in graph.output}
    kept = [weight for weight in graph.initializer if weight.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)


def layer_map(model: onnx.ModelProto) -> manifest.LayerMap:
    """Return the layer map that `model` carries; an empty one where it carries none."""
    text = next((entry.value for entry in model.metadata_props if entry.key == LAYERS_KEY), "{}")
    return json_format.Parse(text, manifest.LayerMap())


def feeds(
    model: onnx.ModelProto, images: Images, preprocessing: Preprocessing
) -> Mapping[str, npt.NDArray[np.generic]]:
    """Return what `model` takes for these images: the bytes, or normalised floats where it normalises nothing."""
    info = model.graph.input[0]
    if info.type.tensor_type.elem_type == onnx.TensorProto.UINT8:
        return {info.name: images}
    return {info.name: preprocessing.normalise(torch.from_numpy(images)).numpy()}
