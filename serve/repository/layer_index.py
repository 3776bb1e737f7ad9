"""Index of the layers of an ONNX file: layer names, and the graph values that hold their outputs.

A file that zoonnx exported has a verified layer map in its metadata. In a file that torch.onnx wrote, each node lists
the modules that contain it, in its metadata or, if the TorchScript exporter wrote it, in its name; the index has the
modules whose output is certain. In any other file, the layers are the named nodes.
"""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from google.protobuf import json_format

from protos import introspect, manifest
from protos.keys import LAYERS_KEY
from serve.errors import BadModelError, UnknownOutputError
from serve.repository import program_metadata, scope_names
from serve.repository.module_outputs import module_outputs

if TYPE_CHECKING:
    import onnx

MAX_NAME_LENGTH = 200  # longer unknown names are truncated in messages, and not compared with the layers
NAMING = {introspect.MODULE_PATHS: "module paths", introspect.NODE_NAMES: "the names of the file's nodes"}


@dataclass(frozen=True)
class LayerIndex:
    """The layers of one model file.

    Attributes:
        layers: Layers by name, in execution order.
        names: Kind of the names: module paths or node names.
    """

    layers: Mapping[str, manifest.Layer]
    names: introspect.LayerNames

    def value(self, name: str) -> str:
        """Return the graph value that holds a layer's output.

        Raises:
            UnknownOutputError: There is no such layer, or it is not in the file; the message has the reason.
        """
        layer = self.layers.get(name)
        if layer is None:
            raise UnknownOutputError(self._unknown(name))
        if not layer.value:
            raise UnknownOutputError(f"the layer '{name}' ({layer.kind}) is not in the file: {absence_reason(layer)}")
        return layer.value

    def _unknown(self, name: str) -> str:
        """Return the message for an unknown name; comparing a very long name with the layers would take minutes."""
        is_short = len(name) <= MAX_NAME_LENGTH
        close = difflib.get_close_matches(name, self.layers, n=1) if is_short else []
        hint = f"did you mean '{close[0]}'?" if close else f"layer names are {NAMING[self.names]}."
        return f"there is no output or layer '{name if is_short else name[:MAX_NAME_LENGTH] + '...'}'; {hint}"

    def is_batched(self, name: str) -> bool:
        """Return whether the layer's first dimension is known to be the batch."""
        shape = self.layers[name].shape
        return len(shape) > 0 and shape[0] == -1


def read_layers(model: Path, metadata: Mapping[str, str]) -> LayerIndex:
    """Return the layers of the file `model`, whose metadata properties are `metadata`.

    Raises:
        BadModelError: The layer map in the metadata is damaged.
    """
    if LAYERS_KEY in metadata:
        layer_map = _parse_layer_map(model, metadata[LAYERS_KEY])
        return LayerIndex({layer.name: layer for layer in layer_map.layers if layer.name}, introspect.MODULE_PATHS)
    return _read_from_nodes(model)


def _parse_layer_map(model: Path, text: str) -> manifest.LayerMap:
    try:
        return json_format.Parse(text, manifest.LayerMap(), ignore_unknown_fields=True)
    except (json_format.ParseError, RecursionError) as error:
        raise BadModelError(
            f"{model}: the layer map in its metadata cannot be read: export the model again."
        ) from error


def absence_reason(layer: manifest.Layer) -> str:
    """Return why a layer's output is not in the file, as a clause with a full stop."""
    if layer.status == manifest.FOLDED:
        return f"the export folded it into '{layer.of}'; request that layer instead."
    if layer.status == manifest.ALIAS:
        return f"it passes on the output of '{layer.of}', which is not in the file either."
    return f"{layer.reason}."


def _read_from_nodes(model: Path) -> LayerIndex:
    import onnx

    graph = onnx.load(model, load_external_data=False).graph
    batch = _batch_dimension(graph)
    shapes = {info.name: _shape(info, batch) for info in (*graph.value_info, *graph.output)}
    program = program_metadata.read_program(graph) or scope_names.read_program(graph)
    by_path = module_outputs(program) if program else {}
    by_node = {node.name: node.output[0] for node in graph.node if node.name and node.output and node.output[0]}
    values, names = (by_path, introspect.MODULE_PATHS) if by_path else (by_node, introspect.NODE_NAMES)
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
        for name, value in values.items()
    }
    return LayerIndex(layers, names)


def _batch_dimension(graph: "onnx.GraphProto") -> str:
    """Return the name of the inputs' first dimension; empty if it has no name, or several."""
    shapes = [info.type.tensor_type.shape.dim for info in graph.input]
    names = {dims[0].dim_param if dims else "" for dims in shapes}
    return names.pop() if len(names) == 1 else ""


def _shape(info: "onnx.ValueInfoProto", batch: str) -> list[int]:
    """Return a value's shape with -1 for the batch; empty if any other dimension is dynamic.

    Another dynamic dimension may come first, and must not be mistaken for the batch.
    """
    dims = info.type.tensor_type.shape.dim
    if any(not dim.HasField("dim_value") and dim.dim_param != batch for dim in dims) or not batch:
        return []
    return [dim.dim_value if dim.HasField("dim_value") else -1 for dim in dims]
