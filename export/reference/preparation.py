"""Compares a prepared network with the one that it was made from, before anything is compared with the file.

Requires: the original network, and PyTorch's float32 and float64 results for the prepared one.
Ensures: both compute the same outputs at batch sizes 1, 2 and all probe inputs, and for these the same output of every
layer that both have.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from export.errors import ConversionError, FailedRunError, UnsupportedNetworkError
from export.reference.expected import SMALL_BATCH, ReferenceRuns
from export.reference.pairs import ReferencePair
from export.reference.tolerance import Agreement
from export.tracing.run import cpu_copy
from export.tracing.trace import TensorRecord
from protos import manifest


def verify_preparation(original: nn.Module, runs: Sequence[ReferenceRuns]) -> list[manifest.Layer]:
    """Compare `original` with the prepared network at each input size; return the layers that preparing removed.

    No tensor of the original is kept beyond its comparison: those of all layers can take gigabytes.

    Raises:
        ConversionError: an output or a layer differs.
        UnsupportedNetworkError: the original network does not run.
    """
    original = cpu_copy(original)
    by_size = [_verify_size(original, size_runs) for size_runs in runs]
    entries, other_entries = by_size[0].complete, by_size[-1].small_batch
    prepared = runs[0].float32.layers
    removed = [entry for name, entry in entries.items() if entry.path and name not in prepared]
    for entry in removed:
        other_shape = other_entries[entry.name].shape if entry.name in other_entries else entry.shape
        entry.shape[:] = [a if a == b else -1 for a, b in zip(entry.shape, other_shape, strict=True)]
        entry.of = _replacement(entry.path, prepared)
    return removed


@contextlib.contextmanager
def preparation_errors(run_original: Callable[[], object]) -> Iterator[None]:
    """Name the preparation as the cause of a failing run that the network as it was passed does not share."""
    try:
        yield
    except UnsupportedNetworkError as error:
        if not isinstance(error, FailedRunError) and not isinstance(error.__cause__, FailedRunError):
            raise
        try:
            run_original()
        except UnsupportedNetworkError:
            raise error from error.__cause__
        raise UnsupportedNetworkError(
            "the network runs as it was passed, but not as it is prepared for the export, with blocks re-parameterised "
            "into single layers: its forward uses a part of a block that this removes. Export with --keep-branches. "
            f"PyTorch's failure: {error}"
        ) from error


def insert_removed(layers: Sequence[manifest.Layer], removed: Sequence[manifest.Layer]) -> list[manifest.Layer]:
    """Return `layers` with each removed layer before the one that replaces it."""
    by_target: dict[str, list[manifest.Layer]] = {}
    for layer in removed:
        by_target.setdefault(layer.of, []).append(layer)
    merged = [entry for layer in layers for entry in (*by_target.pop(layer.name, ()), layer)]
    return [*merged, *(layer for remaining in by_target.values() for layer in remaining)]


@dataclass(frozen=True)
class _Entries:
    """Entries of the original's layers, with the shapes for all probe inputs and for the small batch."""

    complete: Mapping[str, manifest.Layer]
    small_batch: Mapping[str, manifest.Layer]


def _verify_size(original: nn.Module, runs: ReferenceRuns) -> _Entries:
    """Compare at one input size, at batch sizes 1, 2 and all probe inputs."""
    complete = _Comparison(runs.pair)
    outputs = runs.run_other(original, runs.count, complete.consume)
    complete.require_agreement(outputs, runs.count)
    small_batch: dict[str, manifest.Layer] = {}
    outputs = runs.run_other(original, SMALL_BATCH, lambda record: small_batch.update({record.name: _entry(record)}))
    _require_equal_outputs(outputs, runs, SMALL_BATCH)
    _require_equal_outputs(runs.run_other(original, 1), runs, 1)
    return _Entries(complete.entries, small_batch)


class _Comparison:
    """Compares every layer that both networks have while the original one runs, for all probe inputs."""

    def __init__(self, pair: ReferencePair) -> None:
        self._pair = pair
        self._agreements: dict[str, Agreement] = {}
        self.entries: dict[str, manifest.Layer] = {}

    def consume(self, record: TensorRecord) -> None:
        """Compare one layer of the original network, and add its entry."""
        entry = self.entries[record.name] = _entry(record)
        prepared = self._pair.float32.layers.get(record.name)
        if prepared is not None and prepared.value.shape == record.value.shape:
            what = f"layer '{entry.name}' ({entry.kind})"
            self._agreements[what] = self._pair.layer(record.name).agreement(record.value)

    def require_agreement(self, outputs: Mapping[str, Tensor], count: int) -> None:
        """Require equal layers, in the order of the calls, then equal outputs. Raises: ConversionError."""
        for name, value in outputs.items():
            self._agreements[f"output '{name}'"] = self._pair.output(name).agreement(value.numpy())
        for what, agreement in self._agreements.items():
            _require_agreement(what, agreement, count)


def _entry(record: TensorRecord) -> manifest.Layer:
    return manifest.Layer(
        path=record.path,
        call=record.call,
        element=record.element,
        name=record.name,
        kind=record.kind,
        status=manifest.FOLDED,
        shape=record.value.shape,
    )


def _require_equal_outputs(original: Mapping[str, Tensor], runs: ReferenceRuns, batch: int) -> None:
    """Compare the outputs for the first inputs with the prepared network's: rows of its largest batch, or a run."""
    for pair in runs.candidates(batch):
        agreements = {name: pair.output(name).agreement(value.numpy()) for name, value in original.items()}
        if all(agreement.holds for agreement in agreements.values()):
            return
    for name, agreement in agreements.items():
        _require_agreement(f"output '{name}'", agreement, batch)


def _require_agreement(what: str, agreement: Agreement, batch: int) -> None:
    if not agreement.holds:
        raise ConversionError(
            f"preparing the network for the export changed its {what} at batch {batch}: largest difference "
            f"{agreement.max_abs_error:.3g}, tolerance {agreement.tolerance:.3g}. Re-parameterisation is the usual "
            "cause: export with --keep-branches."
        )


def _replacement(path: str, prepared: Mapping[str, object]) -> str:
    """Return the innermost layer around `path` that the prepared network has."""
    while path and path not in prepared:
        path = path.rpartition(".")[0]
    return path
