"""Which values of an ONNX file a client may ask for, and by which names.

A file that we exported says it itself, verified. A file that torch.onnx wrote names, on each node, the modules around
it: a module's output is the last value computed inside. Any other file has the names of its nodes.
"""

import ast
import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from google.protobuf import json_format

from protos import introspect, manifest
from serve.errors import BadModelError, UnknownOutputError

if TYPE_CHECKING:
    import onnx

LAYERS_KEY = "zoonnx.layers"
NAME_SCOPES = "pkg.torch.onnx.name_scopes"
LONGEST_NAME = 200  # characters that are looked at of a name that is not there
WORDS = {introspect.MODULE_PATHS: "module paths", introspect.NODE_NAMES: "the names of the file's nodes"}


@dataclass(frozen=True)
class LayerIndex:
    """The layers of one model file, by name, in order; `names` says what they are called after."""

    layers: Mapping[str, manifest.Layer]
    names: introspect.LayerNames

    def value(self, name: str) -> str:
        """Return the graph's value that holds the layer. Raises: UnknownOutputError, saying where it went."""
        layer = self.layers.get(name)
        if layer is None:
            raise UnknownOutputError(self._unknown(name))
        if not layer.value:
            raise UnknownOutputError(f"the layer '{name}' ({layer.kind}) is not in the file: {where_it_went(layer)}")
        return layer.value

    def _unknown(self, name: str) -> str:
        """Say what there is instead; to compare a very long name with every layer would take minutes."""
        fits = len(name) <= LONGEST_NAME
        close = difflib.get_close_matches(name, self.layers, n=1) if fits else []
        hint = f"did you mean '{close[0]}'?" if close else f"layers go by {WORDS[self.names]}."
        return f"there is no output or layer '{name if fits else name[:LONGEST_NAME] + '...'}'; {hint}"

    def shares_batches(self, name: str) -> bool:
        """Whether the layer's first dimension is known to be the batch."""
        shape = self.layers[name].shape
        return len(shape) > 0 and shape[0] == -1


def read_layers(model: Path, metadata: Mapping[str, str]) -> LayerIndex:
    """Read the layers of `model`, whose own metadata is `metadata`. Raises: BadModelError."""
    if LAYERS_KEY in metadata:
        layer_map = _parsed(model, metadata[LAYERS_KEY])
        return LayerIndex({layer.name: layer for layer in layer_map.layers if layer.name}, introspect.MODULE_PATHS)
    return _from_nodes(model)


def _parsed(model: Path, text: str) -> manifest.LayerMap:
    try:
        return json_format.Parse(text, manifest.LayerMap(), ignore_unknown_fields=True)
    except (json_format.ParseError, RecursionError) as error:
        raise BadModelError(
            f"{model}: the layer map in its metadata cannot be read: export the model again."
        ) from error


def where_it_went(layer: manifest.Layer) -> str:
    """Say what became of a layer that no value of the file holds."""
    if layer.status == manifest.FOLDED:
        return f"the export folded it into '{layer.of}', whose output can be asked for."
    if layer.status == manifest.ALIAS:
        return f"it hands on the output of '{layer.of}', which is not there either."
    return f"{layer.reason}."


def _from_nodes(model: Path) -> LayerIndex:
    import onnx

    graph = onnx.load(model, load_external_data=False).graph
    batch = _batch_name(graph)
    shapes = {info.name: _shape(info, batch) for info in (*graph.value_info, *graph.output)}
    by_path = dict(_last_values(graph.node))
    by_node = {node.name: node.output[0] for node in graph.node if node.name and node.output and node.output[0]}
    chosen, names = (by_path, introspect.MODULE_PATHS) if by_path else (by_node, introspect.NODE_NAMES)
    kinds = {node.output[0]: node.op_type for node in graph.node if node.output}
    layers = {
        name: manifest.Layer(
            path=name,
            name=name,
            kind=kinds.get(value, ""),
            status=manifest.EXACT,
            value=value,
            shape=shapes.get(value, ()),
        )
        for name, value in chosen.items()
    }
    return LayerIndex(layers, names)


def _last_values(nodes: "Iterable[onnx.NodeProto]") -> Iterable[tuple[str, str]]:
    """Return each module's last value, in the order in which the modules end."""
    last: dict[str, str] = {}
    for node in nodes:
        for path, value in reversed(list(_scoped(node))):  # the innermost ends first
            last.pop(path, None)
            last[path] = value
    return last.items()


def _scoped(node: "onnx.NodeProto") -> Iterable[tuple[str, str]]:
    """Yield the path of each module around `node`, with the node's first output."""
    for entry in node.metadata_props:
        if entry.key == NAME_SCOPES and node.output and node.output[0]:
            yield from ((path, node.output[0]) for path in _paths(entry.value) if path)


def _paths(scopes: str) -> list[str]:
    """Read the exporter's list of scopes, without the operation's own; what is no such list names no module."""
    try:
        found = ast.literal_eval(scopes)
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return []
    return [path for path in found[:-1] if isinstance(path, str)] if isinstance(found, list) else []


def _batch_name(graph: "onnx.GraphProto") -> str:
    """Return what the file calls the inputs' first dimension; empty where it has no name, or several."""
    shapes = [info.type.tensor_type.shape.dim for info in graph.input]
    names = {dims[0].dim_param if dims else "" for dims in shapes}
    return names.pop() if len(names) == 1 else ""


def _shape(info: "onnx.ValueInfoProto", batch: str) -> list[int]:
    """Return the shape as the file states it: -1 for the batch; none where another size is free as well.

    A free size that is not the batch may stand first, and then rows are not images: better to claim nothing.
    """
    dims = info.type.tensor_type.shape.dim
    if any(not dim.HasField("dim_value") and dim.dim_param != batch for dim in dims) or not batch:
        return []
    return [dim.dim_value if dim.HasField("dim_value") else -1 for dim in dims]
