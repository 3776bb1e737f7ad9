"""What a model file says about itself.

Ensures: on each node the paths of the modules around it, and nothing else of the exporter's notes (they hold source
lines and absolute paths); in the file's own metadata the layer map, the labels and the preprocessing, as JSON.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import onnx
from google.protobuf import json_format

from export.names import LABELS_KEY, LAYERS_KEY, MEASURED, PREPROCESSING_KEY
from export.onnx_model.scopes import NAME_SCOPES
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
    model: onnx.ModelProto,
    layer_map: manifest.LayerMap,
    labels: Iterable[str],
    preprocessing: manifest.Preprocessing | None,
) -> None:
    """Write into `model` what a reader needs who has nothing else. What the checks found is left out."""
    facts = {LAYERS_KEY: compact_json(timeless(layer_map)), LABELS_KEY: json.dumps(list(labels), ensure_ascii=False)}
    if preprocessing:
        facts[PREPROCESSING_KEY] = compact_json(preprocessing)
    onnx.helper.set_model_props(model, facts)


def restamp(
    variant: onnx.ModelProto,
    original: onnx.ModelProto,
    layer_map: manifest.LayerMap,
    renamed: Mapping[str, str] | None = None,
) -> manifest.LayerMap:
    """Write into `variant`, which a tool made of `original`, what is still true of it, and return its layer map.

    `layer_map` is that of `original`. A layer keeps its value where `variant` still holds it, under the name that
    `renamed` gives for its old name, or under its old name; else it is NOT_EXPORTED, and says so. The labels, the
    preprocessing and whatever else `original` says of itself are copied. Nothing is measured: `max_abs_error` and
    `shape_witnesses` are those of the caller's own checks, and empty here.
    """
    held = {name for node in variant.graph.node for name in node.output} | {info.name for info in variant.graph.input}
    ours = timeless(layer_map)
    for layer in ours.layers:
        value = (renamed or {}).get(layer.value, layer.value)
        if layer.value and value not in held:
            layer.status, layer.of, value = manifest.NOT_EXPORTED, "", ""
            layer.reason = "this variant computes it inside another operation"
        layer.value = value
    said = {entry.key: entry.value for entry in original.metadata_props}
    onnx.helper.set_model_props(variant, {**said, LAYERS_KEY: compact_json(ours)})
    return ours


def timeless(layer_map: manifest.LayerMap) -> manifest.LayerMap:
    """Return `layer_map` without what was measured on the way."""
    bare = manifest.LayerMap()
    bare.CopyFrom(layer_map)
    for layer in bare.layers:
        for name in MEASURED:
            layer.ClearField(name)
    return bare


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
