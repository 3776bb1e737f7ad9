"""The metadata inside an ONNX file.

Ensures: each node keeps the paths of the modules that contain it, and no other metadata of the exporter (which
includes source lines and absolute paths); the model's own metadata has the layer map, the labels and the
preprocessing as JSON.
"""

import json
from collections.abc import Iterable, Mapping
from typing import Any

import onnx
from google.protobuf import json_format

from export.names import MEASURED
from protos import manifest
from protos.keys import LABELS_KEY, LAYERS_KEY, NAME_SCOPES_KEY, PREPROCESSING_KEY


def remove_exporter_metadata(model: onnx.ModelProto) -> None:
    """Remove the exporter's metadata from `model`, except the module paths on its nodes."""
    for node in model.graph.node:
        _keep_only(node, {NAME_SCOPES_KEY})
    graph = model.graph
    for holder in (model, graph, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        _keep_only(holder, set())
    model.doc_string = ""


def write_metadata(
    model: onnx.ModelProto,
    layer_map: manifest.LayerMap,
    labels: Iterable[str],
    preprocessing: manifest.Preprocessing | None,
) -> None:
    """Write the layer map, the labels and the preprocessing into `model`, for readers of this file alone.

    The measured fields of the layer map are omitted.
    """
    entries = {
        LAYERS_KEY: compact_json(without_measurements(layer_map)),
        LABELS_KEY: json.dumps(list(labels), ensure_ascii=False),
    }
    if preprocessing:
        entries[PREPROCESSING_KEY] = compact_json(preprocessing)
    onnx.helper.set_model_props(model, entries)


def write_variant_metadata(
    variant: onnx.ModelProto,
    original: onnx.ModelProto,
    layer_map: manifest.LayerMap,
    renamed: Mapping[str, str] | None = None,
) -> manifest.LayerMap:
    """Write the metadata of `original` into `variant`, a model derived from it, and return the layer map of `variant`.

    `layer_map` is that of `original`; `renamed` maps old to new value names. A layer keeps its value if `variant`
    computes it; otherwise it becomes NOT_EXPORTED with a reason. All other metadata of `original` is copied.
    `max_abs_error` and `shape_witnesses` are empty: the caller measures `variant` itself.
    """
    values = {name for node in variant.graph.node for name in node.output} | {info.name for info in variant.graph.input}
    variant_map = without_measurements(layer_map)
    for layer in variant_map.layers:
        value = (renamed or {}).get(layer.value, layer.value)
        if layer.value and value not in values:
            layer.status, layer.of, value = manifest.NOT_EXPORTED, "", ""
            layer.reason = "this variant computes it inside another operation"
        layer.value = value
    metadata = {entry.key: entry.value for entry in original.metadata_props}
    onnx.helper.set_model_props(variant, {**metadata, LAYERS_KEY: compact_json(variant_map)})
    return variant_map


def without_measurements(layer_map: manifest.LayerMap) -> manifest.LayerMap:
    """Return a copy of `layer_map` without its measured fields, which vary between machines."""
    copy = manifest.LayerMap()
    copy.CopyFrom(layer_map)
    for layer in copy.layers:
        for name in MEASURED:
            layer.ClearField(name)
    return copy


def compact_json(message: Any) -> str:
    """Return a protobuf message as one line of JSON, with the field names of its .proto file."""
    fields = json_format.MessageToDict(message, preserving_proto_field_name=True)
    return json.dumps(fields, ensure_ascii=False, separators=(",", ":"))


def _keep_only(holder: Any, keys: set[str]) -> None:
    """Remove the doc string and all metadata except `keys` from an ONNX message."""
    entries = [
        onnx.StringStringEntryProto(key=entry.key, value=entry.value)
        for entry in holder.metadata_props
        if entry.key in keys
    ]
    del holder.metadata_props[:]
    holder.metadata_props.extend(entries)
    if hasattr(holder, "doc_string"):
        holder.doc_string = ""
