"""What the units of each layer see of the image, from zoo's geometry.

Requires: a layer map, and the geometry of the network that it is of.
Ensures: a layer has one field for each axis of the image, or none where that is not known.
"""

import math

from protos import manifest
from zoo.geometry.fields import Field
from zoo.geometry.measure import Geometry


def note_fields(layer_map: manifest.LayerMap, geometry: Geometry) -> None:
    """Write the receptive fields into `layer_map`; those of a tuple's further tensors are not known."""
    fields = {layer.name: layer.fields or () for layer in geometry.layers}
    for layer in layer_map.layers:
        known = fields.get(layer.name, ())
        if all(_is_known(field) for field in known):
            layer.fields.extend(_message(field) for field in known)


def _message(field: Field) -> manifest.Field:
    jump, start = float(field.jump or 0), float(field.start)
    return manifest.Field(size=field.size, jump=jump, start=start, exact=field.exact)


def _is_known(field: Field) -> bool:
    return field.jump is not None and math.isfinite(field.start)
