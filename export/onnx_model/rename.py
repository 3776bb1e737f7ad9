"""Names the values of an ONNX graph after the layers that compute them.

Requires: a layer map of this model.
Ensures: the output of a layer has the layer's name from PyTorch; the model's inputs, outputs and weights keep their
names; the computation is unchanged.
"""

from collections.abc import Collection, Mapping, Sequence

import onnx

from export.errors import UnsupportedNetworkError
from protos import manifest


def name_values(model: onnx.ModelProto, layer_map: manifest.LayerMap) -> None:
    """Rename the values of `model` after their layers, in the model and in `layer_map`."""
    new_names = _layer_names(model.graph, layer_map)
    conflicting = _value_names(model.graph) & set(new_names.values())
    _rename(model.graph, {**{name: f"{name}/unnamed" for name in conflicting}, **new_names})
    for layer in layer_map.layers:
        layer.value = new_names.get(layer.value, layer.value)


def adopt_output_copies(model: onnx.ModelProto, layer_map: manifest.LayerMap) -> None:
    """Map each layer to the output that has its name, if that output is a copy of the layer's value."""
    sources = {node.output[0]: node.input[0] for node in model.graph.node if node.op_type == "Identity"}
    outputs = {info.name for info in model.graph.output}
    for layer in layer_map.layers:
        is_copy = bool(layer.value) and _source(layer.value, sources) == _source(layer.name, sources)
        if layer.name in outputs and layer.name != layer.value and is_copy:
            layer.status, layer.value, layer.of = manifest.EXACT, layer.name, ""
    values = {layer.name: layer.value for layer in layer_map.layers}
    for layer in layer_map.layers:
        if layer.status == manifest.ALIAS:
            layer.value = values[layer.of]


def require_unambiguous(model: onnx.ModelProto, layer_map: manifest.LayerMap) -> None:
    """Reject a layer that has the name of the model's input or of an output which is another tensor.

    Raises: UnsupportedNetworkError.
    """
    tensors = {info.name: "input" for info in model.graph.input} | {
        info.name: "output, which is another tensor" for info in model.graph.output
    }
    for layer in layer_map.layers:
        if layer.name in tensors and layer.value != layer.name:
            raise UnsupportedNetworkError(
                f"the layer '{layer.name}' ({layer.kind}) has the name of the model's {tensors[layer.name]}, so that "
                "no client could request the layer: rename the module, the argument of "
                "the network's forward, or the key of its output."
            )


def _source(value: str, sources: Mapping[str, str]) -> str:
    """Return the value that `value` is a copy of, through any number of copies."""
    while value in sources:
        value = sources[value]
    return value


def name_outputs(model: onnx.ModelProto, names: Sequence[str]) -> None:
    """Rename the outputs of `model`, in order; other values and weights with these names get new ones."""
    graph = model.graph
    _separate_outputs(graph)
    new_names = {info.name: name for info, name in zip(graph.output, names, strict=True)}
    existing = _value_names(graph) | {weight.name for weight in graph.initializer}
    conflicting = set(names) & existing - set(new_names)
    _rename(graph, {**{name: f"{name}/unnamed" for name in conflicting}, **new_names})
    for info, name in zip(graph.output, names, strict=True):
        info.name = name


def rename_conflicting_weights(graph: onnx.GraphProto, names: Collection[str]) -> None:
    """Rename the weights of `graph` that have one of `names`: the parameters of a network can have any name."""
    conflicting = {weight.name for weight in graph.initializer} & set(names)
    _rename(graph, {name: f"{name}/unnamed" for name in sorted(conflicting)})


def _separate_outputs(graph: onnx.GraphProto) -> None:
    """Add an Identity for each output that is also an input, a weight, or another output."""
    for node in [node for node in graph.node if node.input[:1] == node.output[:1]]:
        graph.node.remove(node)  # torch.onnx writes an Identity from x to x if a network returns its input
    used = {info.name for info in graph.input} | {weight.name for weight in graph.initializer}
    for index, info in enumerate(graph.output):
        if info.name in used:
            name = f"{info.name}/output{index}"
            graph.node.append(onnx.helper.make_node("Identity", [info.name], [name], name))
            info.name = name
        used.add(info.name)


def _layer_names(graph: onnx.GraphProto, layer_map: manifest.LayerMap) -> dict[str, str]:
    """Return the new names by old name. If several layers have the same value, it is named after the innermost."""
    fixed = {info.name for info in (*graph.input, *graph.output)} | {weight.name for weight in graph.initializer}
    names: dict[str, str] = {}
    for layer in layer_map.layers:
        if layer.value and layer.value not in fixed and layer.name not in fixed:
            names.setdefault(layer.value, layer.name)
    return names


def _value_names(graph: onnx.GraphProto) -> set[str]:
    return {name for node in graph.node for name in node.output}


def _rename(graph: onnx.GraphProto, names: Mapping[str, str]) -> None:
    """Rename values, weights and the nodes that compute the values, also in nested graphs."""
    for node in graph.node:
        if node.output and node.output[0] in names:
            node.name = names[node.output[0]]
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
        for attribute in node.attribute:
            for nested in (attribute.g, *attribute.graphs):
                _rename(nested, names)
    for info in graph.value_info:
        info.name = names.get(info.name, info.name)
    for weight in graph.initializer:
        weight.name = names.get(weight.name, weight.name)
