"""Checks that the layer map is the same in the ONNX file and in the manifest, and that it agrees with the graph."""

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from google.protobuf import json_format

from export.check.artifact import Artifact
from export.check.results import CheckResult, Failure
from export.names import MEASURED
from protos import manifest
from protos.files import MANIFEST
from protos.keys import LAYERS_KEY
from protos.layer_names import layer_name

WITH_VALUE = (manifest.EXACT, manifest.ALIAS)
Layers = Mapping[str, manifest.Layer]


def check_layers(artifact: Artifact) -> CheckResult:
    """Compare the layer map in the ONNX file with the manifest; look up the value of each layer in the graph."""
    file = str(artifact.model_path)
    if not artifact.manifest:
        return CheckResult.not_run("layers", "no manifest, so no layers are declared")
    layers = artifact.manifest.layer_map.layers
    in_file = _json_object(artifact.metadata.get(LAYERS_KEY, "")).get("layers", [])
    in_manifest = [json_format.MessageToDict(layer, preserving_proto_field_name=True) for layer in layers]
    values = _value_names(artifact)
    messages = list(_map_differences(in_file, in_manifest))
    messages += [message for layer in layers for message in _missing_value(layer, values)]
    messages += _name_conflicts(artifact, {layer.name: layer for layer in layers}) if not messages else ()
    messages += _map_errors(layers)
    details = f"{len(in_manifest)} layers, the same in the ONNX file and {MANIFEST}"
    return CheckResult.from_failures("layers", details, [Failure(file, message) for message in messages])


def _map_differences(actual: Sequence[Mapping[str, Any]], expected: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    if len(actual) != len(expected):
        yield f"layer map: expected {len(expected)} layers ({MANIFEST}), got {len(actual)}"
        return
    for actual_layer, layer in zip(actual, expected, strict=True):
        keys = actual_layer.keys() | layer.keys() - MEASURED
        differing = sorted(key for key in keys if actual_layer.get(key) != layer.get(key))
        if differing:
            yield f"layer map differs from {MANIFEST} at layer '{layer.get('name')}': {', '.join(differing)}"


def _value_names(artifact: Artifact) -> set[str]:
    """Return the names of all values in the graph."""
    return {name for node in artifact.model.graph.node for name in node.output} | _reserved_names(artifact)


def _reserved_names(artifact: Artifact) -> set[str]:
    """Return the names of inputs, outputs and weights, which are kept even if a layer has the same name."""
    graph = artifact.model.graph
    tensors = {info.name for info in (*graph.input, *graph.output)}
    return tensors | {weight.name for weight in graph.initializer}


def _missing_value(layer: manifest.Layer, values: Collection[str]) -> Iterator[str]:
    if layer.value and layer.value not in values:
        yield f"layer '{layer.name}': expected value '{layer.value}', which is not in the graph"


def _name_conflicts(artifact: Artifact, layers: Layers) -> Iterator[str]:
    """Yield an error for each layer whose value has another layer's name, or whose name belongs to another value."""
    values_named_as_layers = (_value_names(artifact) & layers.keys()) - _reserved_names(artifact)
    for layer in layers.values():
        other = layers.get(layer.value)
        if layer.name in values_named_as_layers and layer.value not in ("", layer.name):
            yield f"layer '{layer.name}': expected value '{layer.value}', but another value has the layer's name"
        elif other and layer.value in values_named_as_layers and other.value != layer.value:
            yield f"layer '{layer.name}': expected value '{layer.value}', which has the name of another layer"


def _map_errors(layers: Sequence[manifest.Layer]) -> Iterator[str]:
    by_name = {layer.name: layer for layer in layers}
    if len(by_name) < len(layers):
        yield "layer map: two layers have the same name"
    for layer in layers:
        message = _entry_error(layer, by_name.get(layer.of))
        if message:
            yield f"layer map: layer '{layer.name}' {message}"


def _entry_error(layer: manifest.Layer, target: manifest.Layer | None) -> str:
    """Return the error of one entry, empty if it has none; `target` is the layer that its field `of` names."""
    status = manifest.LayerStatus.Name(layer.status)
    if layer.name != layer_name(layer.path, layer.call, layer.element):
        return f"does not have the name of its path, '{layer.path}'"
    if (layer.status == manifest.EXACT and not layer.value) or (layer.status not in WITH_VALUE and layer.value):
        return f"is {status} with the value '{layer.value}'"
    if layer.status in (manifest.ALIAS, manifest.FOLDED) and not target:
        return f"is {status} of '{layer.of}', which is not a layer"
    if target and layer.status == manifest.ALIAS and target.value != layer.value:
        return f"is {status} of '{layer.of}', but has another value"
    return ""


def _json_object(text: str) -> dict[str, Any]:
    """Return a JSON object, empty if `text` is not one."""
    try:
        parsed = json.loads(text) if text else None
    except ValueError:
        return {}
    return parsed if isinstance(parsed, dict) else {}
