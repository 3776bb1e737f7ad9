"""The layer map: the file and the manifest say the same, and nothing that the graph's own names contradict."""

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from google.protobuf import json_format

from export.check.artifact import Subject
from export.check.results import Fault, Finding, found
from export.names import LAYERS_KEY, MANIFEST, MEASURED, layer_name
from protos import manifest

HOLDING = (manifest.EXACT, manifest.ALIAS)
Layers = Mapping[str, manifest.Layer]


def check_layers(subject: Subject) -> Finding:
    """Compare the layer map in the file with the manifest's; look for each named value in the graph."""
    file = str(subject.model_path)
    if not subject.promise:
        return Finding("layers", "not done", "no manifest, so no layer is promised")
    layers = subject.promise.layer_map.layers
    stamped = _json(subject.metadata.get(LAYERS_KEY, "")) or {}
    promised = [json_format.MessageToDict(layer, preserving_proto_field_name=True) for layer in layers]
    words = list(_map_differences(stamped.get("layers", []), promised))
    words += [each for layer in layers for each in _value_faults(layer, _values(subject))]
    words += _name_faults(subject, {layer.name: layer for layer in layers}) if not words else ()
    words += _map_faults(layers)
    about = f"{len(promised)} layers, the same in the file and in {MANIFEST}"
    return found("layers", about, [Fault(file, each) for each in words])


def _map_differences(stamped: Sequence[Mapping[str, Any]], promised: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    if len(stamped) != len(promised):
        yield f"its layer map has {len(stamped)} layers; {MANIFEST} promises {len(promised)}"
        return
    for has, wanted in zip(stamped, promised, strict=True):
        odd = sorted(key for key in has.keys() | wanted.keys() - MEASURED if has.get(key) != wanted.get(key))
        if odd:
            yield f"its layer map differs from {MANIFEST} at layer '{wanted.get('name')}': {', '.join(odd)}"


def _values(subject: Subject) -> set[str]:
    """Every name that stands for a value in the graph."""
    return {name for node in subject.model.graph.node for name in node.output} | _fixed(subject)


def _fixed(subject: Subject) -> set[str]:
    """The names that are not a layer's to have: of inputs, outputs and weights."""
    graph = subject.model.graph
    tensors = {info.name for info in (*graph.input, *graph.output)}
    return tensors | {weight.name for weight in graph.initializer}


def _value_faults(layer: manifest.Layer, values: Collection[str]) -> Iterator[str]:
    if layer.value and layer.value not in values:
        yield f"layer '{layer.name}' should be its value '{layer.value}', which is not there"


def _name_faults(subject: Subject, layers: Layers) -> Iterator[str]:
    """A value that bears a layer's name is that layer's, and no other's that has another."""
    fixed = _fixed(subject)
    named = (_values(subject) & layers.keys()) - fixed
    for layer in layers.values():
        other = layers.get(layer.value)
        if layer.name in named and layer.value not in ("", layer.name):
            yield f"layer '{layer.name}' should be its value '{layer.value}'; another value bears its name"
        elif other and layer.value in named and other.value != layer.value:
            yield f"layer '{layer.name}' should be its value '{layer.value}', which bears another layer's name"


def _map_faults(layers: Sequence[manifest.Layer]) -> Iterator[str]:
    known = {layer.name: layer for layer in layers}
    if len(known) < len(layers):
        yield "its layer map has two layers of one name"
    for layer in layers:
        words = _entry_fault(layer, known.get(layer.of))
        if words:
            yield f"layer '{layer.name}' of its layer map {words}"


def _entry_fault(layer: manifest.Layer, of: manifest.Layer | None) -> str:
    """Say what is wrong with one entry by itself, or beside the layer that it is of."""
    status = manifest.LayerStatus.Name(layer.status)
    if layer.name != layer_name(layer.path, layer.call, layer.element):
        return f"is not called after its path, '{layer.path}'"
    if (layer.status == manifest.EXACT and not layer.value) or (layer.status not in HOLDING and layer.value):
        return f"is {status} with the value '{layer.value}'"
    if layer.status in (manifest.ALIAS, manifest.FOLDED) and not of:
        return f"is {status} of '{layer.of}', which is no layer"
    if of and layer.status == manifest.ALIAS and of.value != layer.value:
        return f"is {status} of '{layer.of}', but has another value"
    return ""


def _json(text: str) -> Any:
    """Return what JSON text holds, None where it is no object."""
    try:
        held = json.loads(text) if text else None
    except ValueError:
        return None
    return held if isinstance(held, dict) else None
