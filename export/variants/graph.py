"""Graph operations that several variants use."""

import heapq
from collections import defaultdict
from collections.abc import Mapping

import onnx
import torch
from google.protobuf import json_format

from export.arrays import Array, Images
from export.names import IMAGE, IMAGE_SCALE, LOGITS
from protos import manifest
from protos.keys import LAYERS_KEY
from zoo.networks.preprocessing import Preprocessing


def bare_copy(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy without the shapes and types of intermediate values, which a changed graph would contradict."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    del copy.graph.value_info[:]
    return copy


def sort_nodes(graph: onnx.GraphProto) -> None:
    """Sort the nodes topologically; independent nodes keep their order."""
    nodes = list(graph.node)
    producer = {name: index for index, node in enumerate(nodes) for name in node.output if name}
    pending = [{producer[name] for name in node.input if name in producer} for node in nodes]
    consumers: defaultdict[int, list[int]] = defaultdict(list)
    for index, producers in enumerate(pending):
        for other in producers:
            consumers[other].append(index)
    ready = [index for index, producers in enumerate(pending) if not producers]
    sorted_indices: list[int] = []
    while ready:
        index = heapq.heappop(ready)
        sorted_indices.append(index)
        for consumer in consumers[index]:
            pending[consumer].discard(index)
            if not pending[consumer]:
                heapq.heappush(ready, consumer)
    replace_nodes(graph, [nodes[index] for index in sorted_indices])


def replace_nodes(graph: onnx.GraphProto, nodes: list[onnx.NodeProto]) -> None:
    """Replace all nodes of `graph`."""
    del graph.node[:]
    graph.node.extend(nodes)


def drop_unused_weights(graph: onnx.GraphProto) -> None:
    """Remove the weights that are neither the input of a node nor an output of the graph."""
    used = {name for node in graph.node for name in node.input} | {output.name for output in graph.output}
    weights = [weight for weight in graph.initializer if weight.name in used]
    del graph.initializer[:]
    graph.initializer.extend(weights)


def interface_nodes(model: onnx.ModelProto) -> list[str]:
    """Return the names of the nodes that normalise images or compute probabilities, outside the network."""
    if model.graph.input[0].name != IMAGE:
        return []  # in a raw model, nodes with such names are layers of the network
    nodes = list(model.graph.node)
    last = next((index for index, node in enumerate(nodes) if IMAGE_SCALE in node.input), -1)
    after_logits: list[str] = []
    reached = {LOGITS}
    for node in nodes:
        if reached & set(node.input):
            reached |= set(node.output)
            after_logits.append(node.name)
    return [*(node.name for node in nodes[: last + 1]), *after_logits]


def layer_map(model: onnx.ModelProto) -> manifest.LayerMap:
    """Return the layer map in the metadata of `model`, empty if there is none."""
    text = next((entry.value for entry in model.metadata_props if entry.key == LAYERS_KEY), "{}")
    return json_format.Parse(text, manifest.LayerMap())


def feeds(model: onnx.ModelProto, images: Images, preprocessing: Preprocessing) -> Mapping[str, Array]:
    """Return the input of `model` for `images`: the bytes, or normalised floats for a raw model."""
    info = model.graph.input[0]
    if info.type.tensor_type.elem_type == onnx.TensorProto.UINT8:
        return {info.name: images}
    return {info.name: preprocessing.normalise(torch.from_numpy(images)).numpy()}
