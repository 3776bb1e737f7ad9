"""Maps each module output of the network to a value of the ONNX file.

The exporter records on each node the modules that contain it. The values computed inside a module are candidates for
the module's output; they are compared with it numerically, on the same inputs.

Requires: a model whose nodes still carry the exporter's metadata, and PyTorch's results for the same network.
Ensures: one numerically verified entry for every tensor that a module call returned, in the order in which the calls
returned. The network itself has no entry: its outputs are the model's outputs.
"""

import functools
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from torch import nn

from export.arrays import Array
from export.errors import UnsupportedNetworkError
from export.onnx_model.scopes import module_scopes
from export.onnx_model.stages import StagedRuntime
from export.reference.expected import ReferenceRuns
from export.reference.pairs import ReferencePair
from export.reference.tolerance import Agreement
from export.tracing.trace import TensorRecord
from export.verify.agreements import NEAR_MISS, Agreements
from export.verify.disambiguate import Separation
from protos import manifest

# Reasons of layers that are not in the file. They are written into the file: rewording them changes its bytes.
CONSTANT = "its output does not depend on the input, so the exporter computed it once"
NOWHERE = "it hands its input on, and the file holds that value nowhere"
BATCH_DEPENDENT = "its output for an image depends on the other images of the batch, which a server chooses"
REWRITTEN = "no value computed inside it equals its output: the exporter rewrote it together with its surroundings"
IMPRECISE = "onnxruntime computes it less exactly than PyTorch does"
SUSPECT_REASONS = (NOWHERE, REWRITTEN, IMPRECISE)  # prefixes of reasons that may hide a wrong number


@dataclass(frozen=True)
class Value:
    """A value of the graph.

    Attributes:
        name: Its name.
        position: The index of its node.
        scopes: The paths of the modules that contain it, the outermost first.
    """

    name: str
    position: int
    scopes: tuple[str, ...]


@dataclass(frozen=True)
class Match:
    """A value that equals a layer's output, and how closely."""

    value: Value
    agreement: Agreement


def map_layers(model: onnx.ModelProto, network: nn.Module, runs: Sequence[ReferenceRuns]) -> manifest.LayerMap:
    """Find every module's output among the values of `model`; `runs` are PyTorch's results at each input size.

    Raises: UnsupportedNetworkError when the network does not run in float64.
    """
    own_size, other_shapes = runs[0], runs[-1].small_batch.shapes
    pair = own_size.pair
    agreements = Agreements(pair, StagedRuntime(model).run(own_size.inputs(own_size.count)))
    values = _values(model, agreements, _first_paths(network))
    separation = Separation(model, network, own_size.interface, agreements.ambiguous_pairs())
    matcher = _Matcher(values, pair, agreements, separation, own_size.small_batch.batch_dependent)
    layers = [
        matcher.entry(index, _dynamic_shape(record, other_shapes))
        for index, record in enumerate(pair.float32.layers.values())
    ]
    return manifest.LayerMap(layers=[layer for layer in layers if layer.path])


def _first_paths(network: nn.Module) -> Mapping[str, str]:
    """Return, for each path, the first path of its module: a network may contain a module several times."""
    first: dict[nn.Module, str] = {}
    return {path: first.setdefault(module, path) for path, module in network.named_modules(remove_duplicate=False)}


class _Matcher:
    def __init__(
        self,
        values: Sequence[Value],
        pair: ReferencePair,
        agreements: Agreements,
        separation: Separation,
        batch_dependent: Collection[str],
    ) -> None:
        self._batch_dependent = batch_dependent
        self._values, self._agreements, self._separation = values, agreements, separation
        self._records = list(pair.float32.layers.values())
        self._calls = Counter(record.path for record in self._records if record.element == 0)
        self._inside: defaultdict[str, list[Value]] = defaultdict(list)
        for value in values:
            for path in dict.fromkeys(value.scopes):
                self._inside[path].append(value)
        self._entries: dict[str, manifest.Layer] = {}
        self._matches_inside = functools.cache(self._find_matches_inside)
        self._last_position = -1  # of the output of the last module that computed something

    def entry(self, index: int, shape: Sequence[int]) -> manifest.Layer:
        """Return the entry of the index-th record. Must be called in order of the records."""
        record = self._records[index]
        if record.name in self._batch_dependent:
            entry = manifest.Layer(status=manifest.NOT_EXPORTED, reason=BATCH_DEPENDENT)
        else:
            entry = self._passthrough(index) if record.is_passthrough else self._computed(index)
        entry.path, entry.call, entry.element, entry.name = record.path, record.call, record.element, record.name
        entry.kind = record.kind
        entry.shape[:] = shape
        self._entries[record.name] = entry
        return entry

    def _computed(self, index: int) -> manifest.Layer:
        """Map a record to the last matching value inside its module; values of several calls are assigned in order."""
        record = self._records[index]
        later_calls = self._calls[record.path] - 1 - record.call
        matches = self._matches_inside(index)
        for match in reversed(matches):
            if later_calls and self._matches_later_call(index, match.value):
                later_calls -= 1
                continue
            self._last_position = match.value.position
            return _exact(match)
        return _exact(matches[-1]) if matches and self._is_repeated(index) else self._missing(index)

    def _is_repeated(self, index: int) -> bool:
        """Return whether a later call of the module returned the same values: the exporter computes both calls once."""
        record = self._records[index]
        return any(
            (later.path, later.element) == (record.path, record.element)
            and np.array_equal(later.value, record.value, equal_nan=record.value.dtype.kind == "f")
            for later in self._records[index + 1 :]
        )

    def _passthrough(self, index: int) -> manifest.Layer:
        record = self._records[index]
        for earlier in self._records[:index]:
            if earlier.identity == record.identity and not earlier.is_passthrough:
                source = self._entries[earlier.name]
                return manifest.Layer(
                    status=manifest.ALIAS, of=earlier.name, value=source.value, max_abs_error=source.max_abs_error
                )
        matches = self._matches_around(index)
        if not matches:
            return manifest.Layer(status=manifest.NOT_EXPORTED, reason=NOWHERE)
        # A value that the parent computed after the last module, if there is one.
        later = (match for match in matches if match.value.position > self._last_position)
        return _exact(next(later, matches[-1]))

    def _matches_around(self, index: int) -> list[Match]:
        """Return matches inside the record's parent, else inside the modules that contain it, whose input it may be."""
        parent = self._records[index].parent
        for path in (parent, *_enclosing(parent)):
            candidates = [value for value in self._values if path in value.scopes or not value.scopes]
            if matches := self._matches(index, candidates):
                return matches
        return []

    def _matches_later_call(self, index: int, value: Value) -> bool:
        """Return whether `value` also matches the output of a later call of the same module."""
        record = self._records[index]
        return any(
            self._records[later].path == record.path
            and self._records[later].element == record.element
            and any(match.value is value for match in self._matches_inside(later))
            for later in range(index + 1, len(self._records))
        )

    def _find_matches_inside(self, index: int) -> list[Match]:
        return self._matches(index, self._inside[self._records[index].path])

    def _matches(self, index: int, candidates: Sequence[Value]) -> list[Match]:
        """Return the candidates that match the index-th record as closely as the best one, up to float32's error."""
        matches = [
            Match(value, agreement) for value in candidates if (agreement := self._agreement(index, value)) is not None
        ]
        least = min((match.agreement.max_abs_error for match in matches), default=0.0)
        closest = [
            match for match in matches if match.agreement.max_abs_error <= least + match.agreement.reference_error
        ]
        names = [match.value.name for match in closest]
        separated = self._separation.candidates(self._records[index].name, names)
        return [match for match in closest if match.value.name in separated]

    def _agreement(self, index: int, value: Value) -> Agreement | None:
        """Return how closely `value` matches the index-th record; None if it does not."""
        agreement = self._agreements.get(self._records[index], value.name)
        return agreement if agreement is not None and agreement.holds else None

    def _missing(self, index: int) -> manifest.Layer:
        """Return the entry of a record without a value in the file: folded into a later layer, or not exported."""
        record = self._records[index]
        if not record.inputs and _is_constant(record.value):
            return manifest.Layer(status=manifest.NOT_EXPORTED, reason=CONSTANT)
        if near_miss := self._near_miss(index):
            return manifest.Layer(status=manifest.NOT_EXPORTED, reason=near_miss)
        for later in self._records[index + 1 :]:
            is_inside = later.path.startswith(f"{record.path}.")
            if record.identity in later.inputs and not later.is_passthrough and not is_inside:
                return manifest.Layer(status=manifest.FOLDED, of=later.name)
        return manifest.Layer(status=manifest.NOT_EXPORTED, reason=REWRITTEN)

    def _near_miss(self, index: int) -> str:
        """Return a reason if a value inside the module differs from its output by slightly more than the tolerance."""
        record = self._records[index]
        matches = [
            Match(value, agreement)
            for value in self._inside[record.path]
            if (agreement := self._agreements.get(record, value.name)) is not None
        ]
        closest = min(reversed(matches), key=lambda match: match.agreement.share, default=None)
        if closest is None or closest.agreement.share > NEAR_MISS:
            return ""
        name, error, tolerance = closest.value.name, closest.agreement.max_abs_error, closest.agreement.tolerance
        return f"{IMPRECISE}: '{name}' is {error:.1e} from PyTorch's, {tolerance:.1e} is allowed"


def _enclosing(path: str) -> list[str]:
    """Return the paths of the modules that contain `path`, the innermost first; the last is '', the network."""
    enclosing = [path.rsplit(".", depth)[0] for depth in range(1, path.count(".") + 1)]
    return [*enclosing, ""] if path else []


def _is_constant(value: Array) -> bool:
    """Return whether a value is the same for all probe inputs; a module may get its input by other ways than calls."""
    return value.ndim == 0 or bool((value == value[:1]).all())


def _exact(match: Match) -> manifest.Layer:
    return manifest.Layer(status=manifest.EXACT, value=match.value.name, max_abs_error=match.agreement.max_abs_error)


def _values(model: onnx.ModelProto, agreements: Agreements, first_paths: Mapping[str, str]) -> list[Value]:
    """Return every node's outputs in order."""
    return [
        Value(name, position, tuple(first_paths.get(path, path) for path in module_scopes(node)))
        for position, node in enumerate(model.graph.node)
        for name in node.output
        if name in agreements.values  # not a sequence, which is not the output of a layer
    ]


def _dynamic_shape(record: TensorRecord, other_shapes: Mapping[str, tuple[int, ...]]) -> list[int]:
    """Return the shape of `record` with -1 for dimensions that differ in `other_shapes`, which had another input."""
    if record.name not in other_shapes:
        raise UnsupportedNetworkError(
            f"the layer '{record.name}' is called for some batches only, but a model file calls the same layers for "
            "all: remove the condition from the network's forward."
        )
    other = other_shapes[record.name]
    return [size if size == other_size else -1 for size, other_size in zip(record.value.shape, other, strict=True)]
