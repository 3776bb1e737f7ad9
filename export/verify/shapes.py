"""Verifies the shape of every value of a model by independent witnesses (see shape_witnesses.py).

Requires: a model whose layer map names the value of each module's output.
Ensures: no two witnesses disagree, at batches 1 and 3 and at each size of the interface. A module's
output is verified by pytorch, runtime and one more witness; other values by runtime and one more. Values with fewer
witnesses are listed as unverified.
"""

from collections.abc import Mapping, Sequence

import onnx
from torch import nn

from export.errors import ShapeError
from export.interface.interface import Interface
from export.verify.shape_witnesses import PYTORCH, RUNTIME, Case, Shape, Shapes, Witness, query_witnesses
from protos import manifest

BATCHES = (1, 3)
NO_COMPLETE_SHAPE = "it knows no shape completely, as a function of the dynamic sizes"


def check_shapes(
    model: onnx.ModelProto, network: nn.Module, layer_map: manifest.LayerMap, interface: Interface
) -> manifest.Shapes:
    """Compare all witnesses, and write the witnesses of each layer into `layer_map`. Raises: ShapeError."""
    cases = [Case(batch, size) for size in interface.sizes for batch in BATCHES]
    witnesses = query_witnesses(model, network, layer_map, interface, cases)
    layers = {layer.value: layer.name for layer in reversed(layer_map.layers) if layer.value}
    agreeing = {value: _agreeing_witnesses(value, layers.get(value, ""), witnesses) for value in witnesses[0].shapes}
    for layer in layer_map.layers:
        layer.shape_witnesses[:] = agreeing.get(layer.value, [])
    return _verdict(agreeing, set(layers), witnesses)


def _verdict(
    agreeing: Mapping[str, list[str]], module_outputs: set[str], witnesses: Sequence[Witness]
) -> manifest.Shapes:
    verified = {value for value, names in agreeing.items() if _is_verified(names, value in module_outputs)}
    return manifest.Shapes(
        module_outputs=len(module_outputs),
        module_outputs_verified=len(verified & module_outputs),
        other_values=len(agreeing.keys() - module_outputs),
        other_values_verified=len(verified - module_outputs),
        unverified=[value for value in agreeing if value not in verified],
        witnesses=[_message(witness, agreeing) for witness in witnesses],
    )


def _message(witness: Witness, agreeing: Mapping[str, list[str]]) -> manifest.ShapeWitness:
    count = sum(witness.name in names for names in agreeing.values())
    failure = witness.failure or ("" if count else NO_COMPLETE_SHAPE)
    return manifest.ShapeWitness(name=witness.name, values=count, silent_because=failure)


def _is_verified(witnesses: list[str], is_module_output: bool) -> bool:
    required = {RUNTIME, PYTORCH} if is_module_output else {RUNTIME}
    return required <= set(witnesses) and len(witnesses) > len(required)


def _agreeing_witnesses(value: str, layer: str, witnesses: Sequence[Witness]) -> list[str]:
    """Return the witnesses that report a complete shape of `value`. Raises: ShapeError if two of them disagree."""
    reported = {witness.name: witness.shapes[value] for witness in witnesses if value in witness.shapes}
    runtime = reported[RUNTIME]
    for shapes in reported.values():
        for case, shape in shapes.items():
            if not _compatible(shape, runtime[case]):
                raise ShapeError(_contradiction(value, layer, case, reported))
    return [name for name, shapes in reported.items() if all(None not in shape for shape in shapes.values())]


def _compatible(shape: Shape, other: Shape) -> bool:
    if len(shape) != len(other):
        return False
    return all(a is None or b is None or a == b for a, b in zip(shape, other, strict=True))


def _contradiction(value: str, layer: str, case: Case, reported: Shapes) -> str:
    where = f"layer '{layer}' (value '{value}')" if layer else f"value '{value}'"
    shapes = "; ".join(f"{name}: {list(shapes[case])}" for name, shapes in reported.items() if case in shapes)
    return f"the witnesses disagree on the shape of {where} at {case}: {shapes}. Nothing was written."
