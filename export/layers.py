"""Which value of the ONNX file is the output of which module of the net.

The exporter notes on each node the modules inside which it was computed. A module's output is then the last value
computed inside it; whether that is so is not believed but measured, value against value, on the same input.

Requires: a model whose nodes still carry the exporter's metadata, and the prepared net that it came from.
Ensures: one entry for every tensor that every module call gave, in the order in which the calls ended; no entry is a
guess. The net itself has none: what it gives are the model's outputs.
"""

import ast
import copy
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt
import onnx
import torch
from torch import nn

from export.errors import UnfitNetError
from export.interface import Interface
from export.parity import Agreement, Reference
from export.runtime import Runtime, with_every_value
from export.trace import Identity, Output, inside, shapes, trace
from protos import manifest

NAME_SCOPES = "pkg.torch.onnx.name_scopes"
OTHER_BATCH = 2
FLOOR = 2e-5  # to know a value again, not to judge it: small numbers left over from large ones differ by more

NOWHERE = "it hands its input on, and the file holds that value nowhere"
REWRITTEN = "no value computed inside it equals its output: the exporter rewrote it together with its surroundings"

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Value:
    """A value of the graph: its name, the modules inside which it was computed (outermost first), what it holds."""

    name: str
    scopes: tuple[str, ...]
    array: Array


def map_layers(model: onnx.ModelProto, net: nn.Module, interface: Interface) -> manifest.LayerMap:
    """Find every module's output among the values of `model`, which takes and gives what `interface` says.

    Raises: UnfitNetError when two layers would have one name, or the net does not run in float64.
    """
    inputs = interface.telling()
    outputs = trace(net, interface.for_net(inputs))
    exact = _trace_exactly(net, interface.for_net(inputs, torch.float64))
    there = interface.at(*interface.sizes[-1])
    other = shapes(net, there.for_net(there.noise(OTHER_BATCH)))
    finder = _Finder(_values(model, {interface.input_name: inputs}), outputs, exact)
    free = [_free_shape(a.value.shape, shape) for a, (_, shape) in zip(outputs, other, strict=True)]
    layers = [finder.entry(index, shape) for index, shape in enumerate(free)]
    _require_distinct(layers)
    return manifest.LayerMap(layers=[layer for layer in layers if layer.path])


def _trace_exactly(net: nn.Module, x: torch.Tensor) -> list[Output]:
    """Return the trace of the net's copy in float64. Raises: UnfitNetError, naming the layer in which that fails."""
    double = copy.deepcopy(net).double()
    with inside(double) as where:
        try:
            return trace(double, x)
        except Exception as error:
            layer = f" in its layer '{where()}'" if where() else ""
            raise UnfitNetError(
                f"the net runs in float32 but not in float64{layer}, so its error cannot be measured: its forward "
                "fixes a dtype. Where it casts, as in x.float(), let it follow the weights: x.to(self.weight.dtype). "
                f"PyTorch says {type(error).__name__}: {error}"
            ) from error


def _require_distinct(layers: Sequence[manifest.Layer]) -> None:
    name, count = Counter(layer.name for layer in layers).most_common(1)[0]
    if count > 1:
        raise UnfitNetError(
            f"{count} layers would be called '{name}': rename the module that has '@' or ':' in its name."
        )


def scopes_of(node: onnx.NodeProto) -> tuple[str, ...]:
    """Return the paths of the modules around `node`, outermost first; the net itself is ''."""
    for entry in node.metadata_props:
        if entry.key == NAME_SCOPES:
            return tuple(ast.literal_eval(entry.value))[:-1]
    return ()


class _Finder:
    def __init__(self, values: Sequence[Value], outputs: Sequence[Output], exact: Sequence[Output]) -> None:
        self._outputs, self._exact = outputs, exact
        self._values = values
        self._calls = Counter(output.path for output in outputs if output.element == 0)
        self._inside: defaultdict[str, list[Value]] = defaultdict(list)
        for value in values:
            for path in dict.fromkeys(value.scopes):
                self._inside[path].append(value)
        self._references: dict[Identity, Reference] = {}
        self._entries: dict[str, manifest.Layer] = {}

    def entry(self, index: int, shape: Sequence[int]) -> manifest.Layer:
        """Return the entry of the index-th output. Entries are asked for in order."""
        output = self._outputs[index]
        entry = self._handed_on(index) if output.handed_on else self._computed(index)
        entry.path, entry.call, entry.element, entry.name = output.path, output.call, output.element, output.name
        entry.kind = output.kind
        entry.shape[:] = shape
        self._entries[output.name] = entry
        return entry

    def _computed(self, index: int) -> manifest.Layer:
        found = self._match(index, self._inside[self._outputs[index].path])
        return found or self._not_there(index)

    def _handed_on(self, index: int) -> manifest.Layer:
        output = self._outputs[index]
        for earlier in self._outputs[:index]:
            if earlier.identity == output.identity and not earlier.handed_on:
                source = self._entries[earlier.name]
                return manifest.Layer(
                    status=manifest.ALIAS, of=earlier.name, value=source.value, max_abs_error=source.max_abs_error
                )
        around = [value for value in self._values if output.parent in value.scopes or not value.scopes]
        return self._match(index, around) or manifest.Layer(status=manifest.NOT_EXPORTED, reason=NOWHERE)

    def _match(self, index: int, candidates: Sequence[Value]) -> manifest.Layer | None:
        """Return an EXACT entry for the last of `candidates` that holds the index-th output.

        The candidates of a module that is called several times are shared by its calls, in order.
        """
        output = self._outputs[index]
        later_calls = self._calls[output.path] - 1 - output.call
        for value in reversed(candidates):
            agreement = self._agreement(index, value)
            if agreement is None or not agreement.holds:
                continue
            if later_calls and self._holds_later(index, value):
                later_calls -= 1
                continue
            return manifest.Layer(status=manifest.EXACT, value=value.name, max_abs_error=agreement.max_abs_error)
        return None

    def _holds_later(self, index: int, value: Value) -> bool:
        """Whether `value` also holds what a later call of the same module gave."""
        output = self._outputs[index]
        return any(
            self._outputs[later].path == output.path
            and self._outputs[later].element == output.element
            and (agreement := self._agreement(later, value)) is not None
            and agreement.holds
            for later in range(index + 1, len(self._outputs))
        )

    def _agreement(self, index: int, value: Value) -> Agreement | None:
        expected = self._outputs[index].value
        if value.array.shape != expected.shape or value.array.dtype != expected.dtype:
            return None
        reference = self._reference(self._outputs[index].identity, index)
        return reference.agreement(value.array) if reference.may_hold(value.array) else None

    def _reference(self, identity: Identity, index: int) -> Reference:
        if identity not in self._references:
            self._references[identity] = Reference(self._outputs[index].value, self._exact[index].value, FLOOR)
        return self._references[identity]

    def _not_there(self, index: int) -> manifest.Layer:
        output = self._outputs[index]
        if not output.inputs:
            reason = "its output does not depend on the input, so the exporter computed it once"
            return manifest.Layer(status=manifest.NOT_EXPORTED, reason=reason)
        for later in self._outputs[index + 1 :]:
            is_inside = later.path.startswith(f"{output.path}.")
            if output.identity in later.inputs and not later.handed_on and not is_inside:
                return manifest.Layer(status=manifest.FOLDED, of=later.name)
        return manifest.Layer(status=manifest.NOT_EXPORTED, reason=REWRITTEN)


def _values(model: onnx.ModelProto, feeds: dict[str, Array]) -> list[Value]:
    """Return every node's outputs in order, computed by onnxruntime with the graph as written."""
    arrays = Runtime(with_every_value(model), optimise=False).run(feeds)
    return [Value(name, scopes_of(node), arrays[name]) for node in model.graph.node for name in node.output if name]


def _free_shape(shape: tuple[int, ...], other: tuple[int, ...]) -> list[int]:
    """Return `shape` with -1 where the input decides."""
    return [size if size == other_size else -1 for size, other_size in zip(shape, other, strict=True)]
