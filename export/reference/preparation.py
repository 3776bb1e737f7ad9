"""Compares a prepared network with the one that it was made from, before anything is compared with the file.

Requires: the original network, and PyTorch's float32 and float64 results for the prepared one.
Ensures: both compute the same outputs at batch sizes 1, 2 and all probe inputs, and for these the same output of every
layer that both have.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from export.arrays import Array
from export.errors import ConversionError, FailedRunError, UnsupportedNetworkError
from export.reference.expected import SMALL_BATCH, ReferencePair, ReferenceRuns, TorchRun
from export.reference.tolerance import Agreement
from export.tracing.run import Layers, cpu_copy
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
    complete = runs.run_other(original, runs.count)
    _require_equal(complete, runs.pair, runs.count)
    small_batch = runs.run_other(original, SMALL_BATCH)
    _require_equal_outputs(small_batch, runs, SMALL_BATCH)
    _require_equal_outputs(runs.run_other(original, 1), runs, 1)
    return _Entries(_entries(complete.layers), _entries(small_batch.layers))


def _entries(layers: Layers) -> dict[str, manifest.Layer]:
    return {
        name: manifest.Layer(
            path=record.path,
            call=record.call,
            element=record.element,
            name=name,
            kind=record.kind,
            status=manifest.FOLDED,
            shape=record.value.shape,
        )
        for name, record in layers.items()
    }


def _require_equal(original: TorchRun, pair: ReferencePair, count: int) -> None:
    """Compare every layer that both networks have, in the order of the calls, then the outputs."""
    for name, record in original.layers.items():
        prepared = pair.float32.layers.get(name)
        if prepared is not None and prepared.value.shape == record.value.shape:
            _require_agreement(f"layer '{name}' ({record.kind})", pair.layer(name).agreement(record.value), count)
    for name, value in original.outputs.items():
        _require_agreement(f"output '{name}'", pair.output(name).agreement(value.numpy()), count)


def _require_equal_outputs(original: TorchRun, runs: ReferenceRuns, batch: int) -> None:
    """Compare the outputs for the first inputs with the prepared network's: rows of its largest batch, or a run."""
    for pair in runs.candidates(batch):
        agreements = {name: pair.output(name).agreement(_array(original, name)) for name in original.outputs}
        if all(agreement.holds for agreement in agreements.values()):
            return
    for name, agreement in agreements.items():
        _require_agreement(f"output '{name}'", agreement, batch)


def _array(run: TorchRun, name: str) -> Array:
    return run.outputs[name].numpy()


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
