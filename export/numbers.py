"""Compares every number that leaves the file with PyTorch: each output and each layer, at several batch sizes.

Requires: a model whose layer map names the value of each layer, and the prepared net that it came from.
Ensures: every output and every layer agrees with PyTorch at every batch size of BATCHES, or ParityError names the first
layer, in the order of execution, that departs.
"""

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt
import onnx
import torch
from torch import nn

from export.errors import ParityError
from export.interface import Interface, arrays
from export.layers import FLOOR, NOWHERE, REWRITTEN
from export.parity import Agreement, Reference, compare
from export.runtime import Runtime, with_values
from export.trace import Output, traced
from protos import manifest

BATCHES = (1, 2, 3, 5)

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Check:
    """One output at one batch size; `size` is the height and width of the net's input."""

    batch: int
    output: str
    agreement: Agreement
    size: tuple[int, int]


@dataclass(frozen=True)
class _Sample:
    """What PyTorch, in both precisions, and the file gave for one batch of inputs of one size."""

    batch: int
    size: tuple[int, int]
    expected: tuple[Mapping[str, Array], Mapping[str, Output]]  # the model's outputs; the layers
    exact: tuple[Mapping[str, Array], Mapping[str, Output]]
    outputs: Mapping[str, Array]
    values: Mapping[str, Array]


def check_numbers(
    model: onnx.ModelProto, net: nn.Module, layer_map: manifest.LayerMap, interface: Interface
) -> list[Check]:
    """Run `model` beside `net` on random inputs; write what is found of each layer into `layer_map`.

    Raises: ParityError.
    """
    runner = _Runner(model, net, layer_map)
    checks: list[Check] = []
    for height, width in interface.sizes:
        there = interface.at(height, width)
        for batch in BATCHES:
            sample = runner.run(there, batch)
            _check_layers(layer_map, sample)
            checks += [Check(batch, name, found, (height, width)) for name, found in _outputs(sample)]
            _require_outputs(checks, layer_map)
    return checks


def torch_outputs(net: nn.Module, inputs: Array, interface: Interface) -> dict[str, Array]:
    """Return what PyTorch gives for the model's outputs."""
    with torch.no_grad():
        return arrays(interface.outputs(net(interface.for_net(inputs))))


class _Runner:
    def __init__(self, model: onnx.ModelProto, net: nn.Module, layer_map: manifest.LayerMap) -> None:
        self._whole = Runtime(model)
        self._opened = Runtime(with_values(model, _values(layer_map)), optimise=False)
        self._net, self._double = net, copy.deepcopy(net).double()  # last: no copy of the model is left in memory

    def run(self, interface: Interface, batch: int) -> _Sample:
        inputs = interface.noise(batch)
        feeds = {interface.input_name: inputs}
        return _Sample(
            batch,
            interface.sizes[0],
            _torch(self._net, inputs, interface, torch.float32),
            _torch(self._double, inputs, interface, torch.float64),
            self._whole.run(feeds),
            self._opened.run(feeds),
        )


def _torch(
    net: nn.Module, inputs: Array, interface: Interface, dtype: torch.dtype
) -> tuple[Mapping[str, Array], Mapping[str, Output]]:
    given, outputs = traced(net, interface.for_net(inputs, dtype))
    return arrays(interface.outputs(given)), {output.name: output for output in outputs}


def _values(layer_map: manifest.LayerMap) -> Sequence[str]:
    return list(dict.fromkeys(layer.value for layer in layer_map.layers if layer.value))


def _check_layers(layer_map: manifest.LayerMap, sample: _Sample) -> None:
    """Compare each layer once, where several are one tensor. Raises: ParityError at the first that departs."""
    known: dict[object, Agreement] = {}
    for layer in layer_map.layers:
        if not layer.value:
            continue
        expected, exact = sample.expected[1][layer.name], sample.exact[1][layer.name]
        key = (layer.value, expected.identity)
        if key not in known:
            known[key] = Reference(expected.value, exact.value, FLOOR).agreement(sample.values[layer.value])
        _note(layer, known[key])
        if not known[key].holds:
            raise ParityError(_layer_failure(layer, sample, known[key]))


def _note(layer: manifest.Layer, found: Agreement) -> None:
    """Keep the worst of all batches."""
    if not layer.tolerance or found.share >= layer.max_abs_error / layer.tolerance:
        layer.max_abs_error, layer.reference_error = found.max_abs_error, found.reference_error
        layer.tolerance = found.tolerance


def _outputs(sample: _Sample) -> Iterator[tuple[str, Agreement]]:
    expected, exact = sample.expected[0], sample.exact[0]
    for name in sorted(expected):
        yield name, compare(sample.outputs[name], expected[name], exact[name])


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
    return layer.status == manifest.FOLDED or (
        layer.status == manifest.NOT_EXPORTED and layer.reason in (REWRITTEN, NOWHERE)
    )


def _layer_failure(layer: manifest.Layer, sample: _Sample, found: Agreement) -> str:
    return (
        f"layer '{layer.name}' ({layer.kind}) is the first to depart from PyTorch, at batch {sample.batch} "
        f"of {'x'.join(map(str, sample.size))}: "
        f"{_distances(found)}; nothing was written."
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
        f"(PyTorch's own float32 error is {found.reference_error:.3g})"
    )
