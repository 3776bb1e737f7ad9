"""Compares every output and layer of a model with PyTorch, at several batch sizes.

Requires: a model whose layer map names the value of each layer, and PyTorch's results for the same network.
Ensures: every output and every layer agrees with PyTorch at every batch size of BATCHES. ParityError names the first
layer, in the order of execution, that does not.
"""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from export.arrays import Array
from export.errors import ParityError
from export.interface.interface import Size, batch_text
from export.reference.expected import BATCHES, ReferenceRuns
from export.reference.pairs import ReferencePair
from export.reference.tolerance import Agreement
from export.verify.layer_map import SUSPECT_REASONS
from export.verify.model_runner import ModelRunner
from protos import manifest


@dataclass(frozen=True)
class Check:
    """The comparison of one output.

    Attributes:
        batch: The batch size.
        output: The output's name.
        agreement: The result.
        size: Height and width of the network's input; empty if it is not one image.
    """

    batch: int
    output: str
    agreement: Agreement
    size: Size


@dataclass(frozen=True)
class _Comparison:
    """The agreement of every layer and output for one batch."""

    batch: int
    size: Size
    layers: Mapping[str, Agreement]
    outputs: Mapping[str, Agreement]

    @property
    def holds(self) -> bool:
        return all(agreement.holds for agreement in (*self.layers.values(), *self.outputs.values()))


def check_parity(runner: ModelRunner, layer_map: manifest.LayerMap, runs: Sequence[ReferenceRuns]) -> list[Check]:
    """Run the model on the inputs of `runs`, at each size, and write each layer's largest error into `layer_map`.

    Raises: ParityError.
    """
    checks: list[Check] = []
    for size_runs, batch in itertools.product(runs, BATCHES):
        comparison = _compare(layer_map, size_runs, runner, batch)
        _require_layers(layer_map, comparison)
        checks += [Check(batch, name, agreement, comparison.size) for name, agreement in comparison.outputs.items()]
        _require_outputs(checks, layer_map)
    return checks


def _compare(layer_map: manifest.LayerMap, runs: ReferenceRuns, runner: ModelRunner, batch: int) -> _Comparison:
    """Compare with rows of the largest batch, and if these disagree, with a separate run of this batch."""
    for pair in runs.candidates(batch):
        layers = _compare_layers(layer_map, pair, runner.values(runs.inputs(batch)))
        served = runner.outputs(runs.inputs(batch))
        outputs = {name: pair.output(name).agreement(served[name]) for name in sorted(served)}
        comparison = _Comparison(batch, runs.interface.sizes[0], layers, outputs)
        if comparison.holds:
            break
    return comparison


def _compare_layers(
    layer_map: manifest.LayerMap, pair: ReferencePair, stages: Iterable[Mapping[str, Array]]
) -> dict[str, Agreement]:
    """Compare each layer as its value is computed; layers that share a value and a tensor are compared once."""
    tensors = {layer.name: pair.float32.layers[layer.name].identity for layer in layer_map.layers if layer.value}
    layers = {(layer.value, tensors[layer.name]): layer.name for layer in layer_map.layers if layer.value}
    agreements = {
        (value, tensor): pair.layer(layer).agreement(values[value])
        for values in stages
        for (value, tensor), layer in layers.items()
        if value in values
    }
    return {layer.name: agreements[layer.value, tensors[layer.name]] for layer in layer_map.layers if layer.value}


def _require_layers(layer_map: manifest.LayerMap, comparison: _Comparison) -> None:
    """Write each layer's error into the layer map. Raises: ParityError at the first layer that does not agree."""
    for layer in layer_map.layers:
        if layer.value:
            _record_worst(layer, comparison.layers[layer.name])
            if not comparison.layers[layer.name].holds:
                raise ParityError(_layer_failure(layer, comparison))


def _record_worst(layer: manifest.Layer, agreement: Agreement) -> None:
    """Record the agreement in the layer map if its error, relative to its tolerance, is the largest so far."""
    if not layer.tolerance or agreement.share >= layer.max_abs_error / layer.tolerance:
        layer.max_abs_error, layer.reference_error = agreement.max_abs_error, agreement.reference_error
        layer.tolerance = agreement.tolerance


def _require_outputs(checks: Sequence[Check], layer_map: manifest.LayerMap) -> None:
    for check in checks:
        if not check.agreement.holds:
            raise ParityError(_output_failure(check, _first_suspect(layer_map)))


def _first_suspect(layer_map: manifest.LayerMap) -> manifest.Layer | None:
    """Return the first layer that is missing in the file for a reason that may hide an error."""
    layers = {layer.name: layer for layer in layer_map.layers}
    return next((layer for layer in layer_map.layers if _is_suspect(layer, layers)), None)


def _is_suspect(layer: manifest.Layer, layers: Mapping[str, manifest.Layer]) -> bool:
    while layer.status == manifest.FOLDED and layer.of in layers:
        layer = layers[layer.of]
    if layer.status == manifest.NOT_EXPORTED:
        return layer.reason.startswith(SUSPECT_REASONS)
    return layer.status == manifest.FOLDED


def _layer_failure(layer: manifest.Layer, comparison: _Comparison) -> str:
    return (
        f"layer '{layer.name}' ({layer.kind}) is the first to differ from PyTorch, at "
        f"{batch_text(comparison.batch, comparison.size)}: {_numbers(comparison.layers[layer.name])}; "
        "nothing was written."
    )


def _output_failure(check: Check, suspect: manifest.Layer | None) -> str:
    where = (
        f"the first layer that differs is '{suspect.name}' ({suspect.kind}): no value of the file equals its output"
        if suspect
        else "every layer agrees in the unoptimised model"
    )
    return (
        f"the ONNX model's '{check.output}' differs from PyTorch at "
        f"{batch_text(check.batch, check.size)}: {_numbers(check.agreement)}; {where}; nothing was written."
    )


def _numbers(agreement: Agreement) -> str:
    return (
        f"largest difference {agreement.max_abs_error:.3g}, tolerance {agreement.tolerance:.3g} "
        f"(PyTorch's own float32 error is {agreement.reference_error:.3g})"
    )
