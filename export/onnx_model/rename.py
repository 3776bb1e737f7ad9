"""Gives the file's values the names of the layers that they are the output of.

Requires: a layer map of this model.
Ensures: a value that is a layer's output bears the layer's name, in the file as in PyTorch; the model's inputs, outputs
and weights keep theirs; nothing is computed differently.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence

import onnx

from protos import manifest


def name_values(model: onnx.ModelProto, layer_map: manifest.LayerMap) -> None:
    """Rename the values of `model` after their layers, in the file and in `layer_map`."""
    wanted = _wanted(model.graph, layer_map)
    makes_way = {name: f"{name}/unnamed" for name in _values(model.graph) if name in wanted.values()}
    _rename(model.graph, {**makes_way, **wanted})
    for layer in layer_map.layers:
        layer.value = wanted.get(layer.value, layer.value)


def name_outputs(model: onnx.ModelProto, names: Sequence[str]) -> None:
    """Rename the outputs of `model`, in order; another value that bears such a name gives it up."""
    graph = model.graph
    _separate_outputs(graph)
    wanted = {info.name: name for info, name in zip(graph.output, names, strict=True)}
    taken = set(names) & {*_values(graph), *(weight.name for weight in graph.initializer)} - set(wanted)
    _rename(graph, {**{name: f"{name}/unnamed" for name in taken}, **wanted})
    for info, name in zip(graph.output, names, strict=True):
        info.name = name


def make_way(graph: onnx.GraphProto, names: Collection[str]) -> None:
    """Give weights of `graph` that bear one of `names` another: a network may have a parameter called that."""
    taken = {weight.name for weight in graph.initializer} & set(names)
    _rename(graph, {name: f"{name}/unnamed" for name in sorted(taken)})


def _separate_outputs(graph: onnx.GraphProto) -> None:
    """Give each output a value of its own, where it is an input, a weight, or another output as well."""
    for node in [node for node in graph.node if node.input[:1] == node.output[:1]]:
        graph.node.remove(node)  # torch.onnx writes an Identity from x to x where a network gives its input back
    taken = {info.name for info in graph.input} | {weight.name for weight in graph.initializer}
    for index, info in enumerate(graph.output):
        if info.name in taken:
            name = f"{info.name}/output{index}"
            graph.node.append(onnx.helper.make_node("Identity", [info.name], [name], name))
            info.name = name
        taken.add(info.name)


def _wanted(graph: onnx.GraphProto, layer_map: manifest.LayerMap) -> dict[str, str]:
    """Return the new name of each value that gets one. Of several layers with one value, the innermost names it."""
    fixed = {info.name for info in (*graph.input, *graph.output)} | {weight.name for weight in graph.initializer}
    wanted: dict[str, str] = {}
    for layer in layer_map.layers:
        if layer.value and layer.value not in fixed and layer.name not in fixed:
            wanted.setdefault(layer.value, layer.name)
    return wanted


def _values(graph: onnx.GraphProto) -> Iterator[str]:
    return (name for node in graph.node for name in node.output)


def _rename(graph: onnx.GraphProto, names: Mapping[str, str]) -> None:
    for node in graph.node:
        if node.output and node.output[0] in names:
            node.name = names[node.output[0]]
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                _rename(inner, names)
    for info in graph.value_info:
        info.name = names.get(info.name, info.name)
    for weight in graph.initializer:
        weight.name = names.get(weight.name, weight.name)
