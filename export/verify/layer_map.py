"""Which value of the ONNX file is the output of which module of the network.

The exporter notes on each node the modules inside which it was computed. A module's output is then the last value
computed inside it; whether that is so is not believed but measured, value against value, on the same input.

Requires: a model whose nodes still carry the exporter's metadata, and what the network that it came from gives.
Ensures: one entry for every tensor that every module call gave, in the order in which the calls ended; no entry is a
guess. The network itself has none: what it gives are the model's outputs.
"""

import functools
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from torch import nn

from export.onnx_model.runtime import Runtime, every_value
from export.onnx_model.scopes import scopes_of
from export.reference.expected import ReferencePair, ReferenceRuns
from export.reference.tolerance import Agreement
from export.tracing.trace import Output
from export.verify.disambiguate import OutOfRangeProbe
from protos import manifest

NOWHERE = "it hands its input on, and the file holds that value nowhere"
REWRITTEN = "no value computed inside it equals its output: the exporter rewrote it together with its surroundings"
IMPRECISE = "onnxruntime computes it less exactly than PyTorch does"
LOST = (NOWHERE, REWRITTEN, IMPRECISE)  # reasons begin so where a number may be wrong
MISSED = 10.0  # times what is allowed: a value that is farther from an output is another

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Value:
    """A value of the graph: its name, its place among all, inside which modules it is computed (outermost first)."""

    name: str
    place: int
    scopes: tuple[str, ...]
    array: Array


@dataclass(frozen=True)
class Match:
    """A value that holds what a layer gave, and how nearly."""

    value: Value
    agreement: Agreement


def map_layers(model: onnx.ModelProto, network: nn.Module, expectations: Sequence[ReferenceRuns]) -> manifest.LayerMap:
    """Find every module's output among the values of `model`; what `network` gave is known at each size of its input.

    Raises: UnsupportedNetworkError when the network does not run in float64.
    """
    own, other = expectations[0], expectations[-1].second.layers
    sample, feeds = own.whole, {own.interface.input_name: own.inputs(own.most)}
    finder = _Finder(
        _values(model, feeds, _first_paths(network)), sample, OutOfRangeProbe(model, network, own.interface)
    )
    layers = [
        finder.entry(index, _free_shape(each, other)) for index, each in enumerate(sample.expected.layers.values())
    ]
    return manifest.LayerMap(layers=[layer for layer in layers if layer.path])


def _first_paths(network: nn.Module) -> Mapping[str, str]:
    """The path by which each module is known, where it stands in the network at several."""
    known: dict[nn.Module, str] = {}
    return {path: known.setdefault(module, path) for path, module in network.named_modules(remove_duplicate=False)}


class _Finder:
    def __init__(self, values: Sequence[Value], sample: ReferencePair, far: OutOfRangeProbe) -> None:
        self._far = far
        self._sample, self._outputs = sample, list(sample.expected.layers.values())
        self._values = values
        self._calls = Counter(output.path for output in self._outputs if output.element == 0)
        self._inside: defaultdict[str, list[Value]] = defaultdict(list)
        for value in values:
            for path in dict.fromkeys(value.scopes):
                self._inside[path].append(value)
        self._entries: dict[str, manifest.Layer] = {}
        self._nearest_inside = functools.cache(self._find_inside)
        self._reached = -1  # the place of the value that the last module gave that computed one

    def entry(self, index: int, shape: Sequence[int]) -> manifest.Layer:
        """Return the entry of the index-th output. Entries are asked for in order."""
        output = self._outputs[index]
        entry = self._handed_on(index) if output.is_passthrough else self._computed(index)
        entry.path, entry.call, entry.element, entry.name = output.path, output.call, output.element, output.name
        entry.kind = output.kind
        entry.shape[:] = shape
        self._entries[output.name] = entry
        return entry

    def _computed(self, index: int) -> manifest.Layer:
        """The last of the values inside the module; those of several calls are shared by the calls, in order."""
        output = self._outputs[index]
        later_calls = self._calls[output.path] - 1 - output.call
        matches = self._nearest_inside(index)
        for match in reversed(matches):
            if later_calls and self._is_of_later_call(index, match.value):
                later_calls -= 1
                continue
            self._reached = match.value.place
            return _exact(match)
        return _exact(matches[-1]) if matches and self._is_repeated(index) else self._not_there(index)

    def _is_repeated(self, index: int) -> bool:
        """Whether a later call of the same module gave the very same: the exporter computes that once for both."""
        output = self._outputs[index]
        return any(
            (later.path, later.element) == (output.path, output.element)
            and np.array_equal(later.value, output.value, equal_nan=output.value.dtype.kind == "f")
            for later in self._outputs[index + 1 :]
        )

    def _handed_on(self, index: int) -> manifest.Layer:
        output = self._outputs[index]
        for earlier in self._outputs[:index]:
            if earlier.identity == output.identity and not earlier.is_passthrough:
                source = self._entries[earlier.name]
                return manifest.Layer(
                    status=manifest.ALIAS, of=earlier.name, value=source.value, max_abs_error=source.max_abs_error
                )
        nearest = self._nearest_around(index)
        if not nearest:
            return manifest.Layer(status=manifest.NOT_EXPORTED, reason=NOWHERE)
        behind = (match for match in nearest if match.value.place > self._reached)
        return _exact(next(behind, nearest[-1]))  # what its parent computed since the last module, else before

    def _nearest_around(self, index: int) -> list[Match]:
        """What holds the index-th output inside its parent, else around that: the parent may have been given it."""
        parent = self._outputs[index].parent
        for around in (parent, *_enclosing(parent)):
            inside = [value for value in self._values if around in value.scopes or not value.scopes]
            if nearest := self._nearest(index, inside):
                return nearest
        return []

    def _is_of_later_call(self, index: int, value: Value) -> bool:
        """Whether `value` also holds what a later call of the same module gave."""
        output = self._outputs[index]
        return any(
            self._outputs[later].path == output.path
            and self._outputs[later].element == output.element
            and any(match.value is value for match in self._nearest_inside(later))
            for later in range(index + 1, len(self._outputs))
        )

    def _find_inside(self, index: int) -> list[Match]:
        return self._nearest(index, self._inside[self._outputs[index].path])

    def _nearest(self, index: int, candidates: Sequence[Value]) -> list[Match]:
        """Those of `candidates` that hold the index-th output, as nearly as the nearest of them, up to noise."""
        found = [Match(value, found) for value in candidates if (found := self._agreement(index, value))]
        least = min((match.agreement.max_abs_error for match in found), default=0.0)
        nearest = [match for match in found if match.agreement.max_abs_error <= least + match.agreement.reference_error]
        return self._apart(index, nearest) if self._far.tells(match.value.name for match in nearest) else nearest

    def _apart(self, index: int, equal: list[Match]) -> list[Match]:
        """Those of several equal values that are still the index-th output for inputs that lie far beyond."""
        name = self._outputs[index].name
        return [match for match in equal if self._far.may_hold(name, match.value.name)] or equal

    def _agreement(self, index: int, value: Value) -> Agreement | None:
        """How nearly `value` holds the index-th output; None where it does not."""
        expected = self._outputs[index].value
        if value.array.shape != expected.shape or value.array.dtype != expected.dtype:
            return None
        reference = self._sample.reference(self._outputs[index].name)
        if not reference.may_hold(value.array):
            return None
        found = reference.agreement(value.array)
        return found if found.holds else None

    def _not_there(self, index: int) -> manifest.Layer:
        output = self._outputs[index]
        if not output.inputs:
            reason = "its output does not depend on the input, so the exporter computed it once"
            return manifest.Layer(status=manifest.NOT_EXPORTED, reason=reason)
        if missed := self._just_missed(index):
            return manifest.Layer(status=manifest.NOT_EXPORTED, reason=missed)
        for later in self._outputs[index + 1 :]:
            is_inside = later.path.startswith(f"{output.path}.")
            if output.identity in later.inputs and not later.is_passthrough and not is_inside:
                return manifest.Layer(status=manifest.FOLDED, of=later.name)
        return manifest.Layer(status=manifest.NOT_EXPORTED, reason=REWRITTEN)

    def _just_missed(self, index: int) -> str:
        """Say of a value inside the module that it is its output, computed less exactly than is allowed."""
        output = self._outputs[index]
        reference = self._sample.reference(output.name)
        same = [value for value in self._inside[output.path] if value.array.shape == output.value.shape]
        found = [Match(value, reference.agreement(value.array)) for value in same]
        nearest = min(reversed(found), key=lambda match: match.agreement.share, default=None)
        if nearest is None or nearest.agreement.share > MISSED:
            return ""
        name, far, allowed = nearest.value.name, nearest.agreement.max_abs_error, nearest.agreement.tolerance
        return f"{IMPRECISE}: '{name}' is {far:.1e} from PyTorch's, {allowed:.1e} is allowed"


def _enclosing(path: str) -> list[str]:
    """The paths of the modules around that at `path`, innermost first; the network itself, '', is the last."""
    inner = [path.rsplit(".", up)[0] for up in range(1, path.count(".") + 1)]
    return [*inner, ""] if path else []


def _exact(match: Match) -> manifest.Layer:
    return manifest.Layer(status=manifest.EXACT, value=match.value.name, max_abs_error=match.agreement.max_abs_error)


def _values(model: onnx.ModelProto, feeds: dict[str, Array], paths: Mapping[str, str]) -> list[Value]:
    """Return every node's outputs in order, computed by onnxruntime with the graph as written."""
    arrays = Runtime(model, every_value(model), optimise=False).run(feeds)
    return [
        Value(name, place, tuple(paths.get(path, path) for path in scopes_of(node)), arrays[name])
        for place, node in enumerate(model.graph.node)
        for name in node.output
        if name and isinstance(arrays[name], np.ndarray)  # a sequence is no layer's output
    ]


def _free_shape(output: Output, others: Mapping[str, Output]) -> list[int]:
    """Return the shape of `output` with -1 where the input decides: where it is another for other inputs."""
    other = others[output.name].value.shape
    return [size if size == other_size else -1 for size, other_size in zip(output.value.shape, other, strict=True)]
