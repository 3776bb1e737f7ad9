"""What a model file says about itself.

Ensures: on each node the paths of the modules around it, and nothing else of the exporter's notes (they hold source
lines and absolute paths); in the file's own metadata the layer map, the labels and the preprocessing, as JSON.
"""

import json
from collections.abc import Iterable, Iterator
from typing import Any

import onnx
from google.protobuf import json_format

from export.keys import LABELS_KEY, LAYERS_KEY, PREPROCESSING_KEY
from export.layers import NAME_SCOPES
from protos import manifest


def strip(model: onnx.ModelProto) -> None:
    """Remove the exporter's notes from `model`, but for the module paths on its nodes."""
    for node in model.graph.node:
        _keep(node, {NAME_SCOPES})
    graph = model.graph
    for holder in (model, graph, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        _keep(holder, set())
    model.doc_string = ""


def stamp(
    model: onnx.ModelProto, layer_map: manifest.LayerMap, labels: Iterable[str], preprocessing: manifest.Preprocessing
) -> None:
    """Write into `model` what a reader needs who has nothing else. What the checks found is left out."""
    timeless = manifest.LayerMap()
    timeless.CopyFrom(layer_map)
    for layer in timeless.layers:
        layer.ClearField("max_abs_error")
        layer.ClearField("shape_witnesses")
    facts = {
        LAYERS_KEY: compact_json(timeless),
        LABELS_KEY: json.dumps(list(labels), ensure_ascii=False),
        PREPROCESSING_KEY: compact_json(preprocessing),
    }
    onnx.helper.set_model_props(model, facts)


def compact_json(message: Any) -> str:
    """Return a protobuf message as one line of JSON with the field names of its .proto file."""
    fields = json_format.MessageToDict(message, preserving_proto_field_name=True)
    return json.dumps(fields, ensure_ascii=False, separators=(",", ":"))


def _keep(holder: Any, keys: set[str]) -> None:
    kept: Iterator[tuple[str, str]] = ((entry.key, entry.value) for entry in holder.metadata_props if entry.key in keys)
    entries = [onnx.StringStringEntryProto(key=key, value=value) for key, value in kept]
    del holder.metadata_props[:]
    holder.metadata_props.extend(entries)
    if hasattr(holder, "doc_string"):
        holder.doc_string = ""
