"""Adds the receptive field of each layer to the layer map, computed by zoo's geometry.

Requires: a layer map, and the geometry of the same network.
Ensures: a layer has one field per axis of the image, or none if it is unknown.
"""

import math

from protos import manifest
from zoo.geometry.fields import ReceptiveField
from zoo.geometry.measure import Geometry


def add_receptive_fields(layer_map: manifest.LayerMap, geometry: Geometry) -> None:
    """Write the receptive fields into `layer_map`; those of a tuple's second and later tensors are unknown."""
    fields_by_layer = {layer.name: layer.fields or () for layer in geometry.layers}
    for layer in layer_map.layers:
        fields = fields_by_layer.get(layer.name, ())
        if all(field.jump is not None and math.isfinite(field.start) for field in fields):
            layer.fields.extend(_message(field) for field in fields)


def _message(field: ReceptiveField) -> manifest.Field:
    jump, start = float(field.jump or 0), float(field.start)
    return manifest.Field(size=field.size, jump=jump, start=start, exact=field.exact)
