"""Compares every number that leaves the file with PyTorch: each output and each layer, at several batch sizes.

Requires: a model whose layer map names the value of each layer, and what the network that it came from gives.
Ensures: every output and every layer agrees with PyTorch at every batch size of BATCHES, or ParityError names the first
layer, in the order of execution, that departs.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt
import onnx

from export.errors import ParityError
from export.interface.interface import Interface
from export.onnx_model.runtime import Runtime
from export.reference.expected import ReferencePair, ReferenceRuns
from export.reference.tolerance import Agreement
from export.verify.layer_map import LOST
from protos import manifest

BATCHES = (1, 2, 3, 5)

Array = npt.NDArray[Any]
Got = tuple[Mapping[str, Array], Mapping[str, Array]]  # the outputs as served; every layer's value


@dataclass(frozen=True)
class Check:
    """One output at one batch size; `size` is the height and width of the network's input."""

    batch: int
    output: str
    agreement: Agreement
    size: tuple[int, int]


@dataclass(frozen=True)
class _Found:
    """How every layer and output of one batch agrees."""

    batch: int
    size: tuple[int, int]
    layers: Mapping[str, Agreement]
    outputs: Mapping[str, Agreement]

    @property
    def holds(self) -> bool:
        return all(each.holds for found in (self.layers, self.outputs) for each in found.values())


def check_numbers(
    model: onnx.ModelProto, layer_map: manifest.LayerMap, expectations: Sequence[ReferenceRuns]
) -> list[Check]:
    """Run `model` on what PyTorch was run on, at each size; write what is found of each layer into `layer_map`.

    Raises: ParityError.
    """
    runner = _Runner(model, layer_map)
    checks: list[Check] = []
    for expectation, batch in itertools.product(expectations, BATCHES):
        found = _found(layer_map, expectation, runner, batch)
        _require_layers(layer_map, found)
        checks += [Check(batch, name, each, found.size) for name, each in found.outputs.items()]
        _require_outputs(checks, layer_map)
    return checks


def _found(layer_map: manifest.LayerMap, expectation: ReferenceRuns, runner: "_Runner", batch: int) -> _Found:
    """Compare with rows of the largest batch, where they are evidence; what departs, with that batch alone."""
    got = runner.run(expectation.interface, expectation.inputs(batch))
    size = expectation.interface.sizes[0]
    for sample in expectation.samples(batch):
        found = _Found(batch, size, _layers(layer_map, sample, got), dict(_outputs(sample, got)))
        if found.holds:
            break
    return found


class _Runner:
    """The file, as it is served and with every layer open."""

    def __init__(self, model: onnx.ModelProto, layer_map: manifest.LayerMap) -> None:
        self._whole = Runtime(model)
        self._opened = Runtime(model, _values(layer_map), optimise=False)

    def run(self, interface: Interface, inputs: Array) -> Got:
        """The outputs as served; every value."""
        feeds = {interface.input_name: inputs}
        return self._whole.run(feeds), self._opened.run(feeds)


def _values(layer_map: manifest.LayerMap) -> Sequence[str]:
    return list(dict.fromkeys(layer.value for layer in layer_map.layers if layer.value))


def _layers(layer_map: manifest.LayerMap, sample: ReferencePair, got: Got) -> dict[str, Agreement]:
    """Compare each layer once, where several are one tensor."""
    known: dict[object, Agreement] = {}
    found = {}
    for layer in layer_map.layers:
        if not layer.value:
            continue
        key = (layer.value, sample.expected.layers[layer.name].identity)
        if key not in known:
            known[key] = sample.reference(layer.name).agreement(got[1][layer.value])
        found[layer.name] = known[key]
    return found


def _require_layers(layer_map: manifest.LayerMap, found: _Found) -> None:
    """Note what is found of each layer. Raises: ParityError at the first that departs."""
    for layer in layer_map.layers:
        if layer.value:
            _note(layer, found.layers[layer.name])
            if not found.layers[layer.name].holds:
                raise ParityError(_layer_failure(layer, found))


def _note(layer: manifest.Layer, found: Agreement) -> None:
    """Keep the worst of all batches."""
    if not layer.tolerance or found.share >= layer.max_abs_error / layer.tolerance:
        layer.max_abs_error, layer.reference_error = found.max_abs_error, found.reference_error
        layer.tolerance = found.tolerance


def _outputs(sample: ReferencePair, got: Got) -> Iterator[tuple[str, Agreement]]:
    for name in sorted(sample.expected.outputs):
        yield name, sample.output(name).agreement(got[0][name])


def _require_outputs(checks: Sequence[Check], layer_map: manifest.LayerMap) -> None:
    for check in checks:
        if not check.agreement.holds:
            raise ParityError(_output_failure(check, first_departing(layer_map)))


def first_departing(layer_map: manifest.LayerMap) -> manifest.Layer | None:
    """Return the first layer that the file does not hold, though nothing that it was folded into explains that."""
    layers = {layer.name: layer for layer in layer_map.layers}
    return next((layer for layer in layer_map.layers if _is_lost(layer, layers)), None)


def _is_lost(layer: manifest.Layer, layers: Mapping[str, manifest.Layer]) -> bool:
    while layer.status == manifest.FOLDED and layer.of in layers:
        layer = layers[layer.of]
    return layer.status == manifest.FOLDED or (layer.status == manifest.NOT_EXPORTED and layer.reason.startswith(LOST))


def _layer_failure(layer: manifest.Layer, found: _Found) -> str:
    return (
        f"layer '{layer.name}' ({layer.kind}) is the first to depart from PyTorch, at batch {found.batch} "
        f"of {'x'.join(map(str, found.size))}: "
        f"{_distances(found.layers[layer.name])}; nothing was written."
    )


def _output_failure(check: Check, layer: manifest.Layer | None) -> str:
    where = (
        f"; the first layer that departs is '{layer.name}' ({layer.kind}): nothing in the file equals its output"
        if layer
        else "; every layer agrees where the file runs unoptimised"
    )
    return (
        f"the ONNX model's '{check.output}' departs from PyTorch at batch {check.batch} "
        f"of {'x'.join(map(str, check.size))}: "
        f"{_distances(check.agreement)}{where}; nothing was written."
    )


def _distances(found: Agreement) -> str:
    return (
        f"largest difference {found.max_abs_error:.3g}, allowed {found.tolerance:.3g} "
        f"(float32's own error is {found.reference_error:.3g})"
    )
