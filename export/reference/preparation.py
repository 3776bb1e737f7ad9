"""Compares a prepared network with the one that it was made from, before anything is compared with the file.

Requires: the original network, and PyTorch's float32 and float64 results for the prepared one.
Ensures: both compute the same outputs at every batch size, and the same output of every layer that both have.
"""

from collections.abc import Iterator, Mapping, Sequence

from torch import nn

from export.arrays import Array
from export.errors import ConversionError
from export.reference.expected import SMALL_BATCH, ReferencePair, ReferenceRuns, TorchRun
from export.reference.tolerance import Agreement
from export.tracing.run import Layers, fresh_copy
from protos import manifest

BATCHES = (1, SMALL_BATCH, 3)  # and all probe inputs


def verify_preparation(original: nn.Module, runs: Sequence[ReferenceRuns]) -> list[manifest.Layer]:
    """Compare `original` with the prepared network at each input size; return the layers that preparing removed.

    Raises:
        ConversionError: an output or a layer differs.
        UnsupportedNetworkError: the original network does not run.
    """
    original = fresh_copy(original).cpu()
    for size_runs in runs:
        complete = size_runs.run_other(original, size_runs.count)
        _require_equal(complete, size_runs.pair, size_runs.count)
        for batch in BATCHES:
            _require_equal_outputs(size_runs.run_other(original, batch), size_runs, batch)
    small_batch = runs[-1].run_other(original, SMALL_BATCH)
    complete = runs[0].run_other(original, runs[0].count)
    return list(_removed(complete.layers, small_batch.layers, runs[0].float32.layers))


def insert_removed(layers: Sequence[manifest.Layer], removed: Sequence[manifest.Layer]) -> list[manifest.Layer]:
    """Return `layers` with each removed layer before the one that replaces it."""
    by_target: dict[str, list[manifest.Layer]] = {}
    for layer in removed:
        by_target.setdefault(layer.of, []).append(layer)
    merged = [entry for layer in layers for entry in (*by_target.pop(layer.name, ()), layer)]
    return [*merged, *(layer for remaining in by_target.values() for layer in remaining)]


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


def _removed(layers: Layers, small_batch: Layers, prepared: Mapping[str, object]) -> Iterator[manifest.Layer]:
    """Yield an entry for each layer of the original network that the prepared one lacks."""
    for name, record in layers.items():
        if name in prepared or not record.path:
            continue
        other_shape = small_batch[name].value.shape
        yield manifest.Layer(
            path=record.path,
            call=record.call,
            element=record.element,
            name=name,
            kind=record.kind,
            status=manifest.FOLDED,
            of=_replacement(record.path, prepared),
            shape=[a if a == b else -1 for a, b in zip(record.value.shape, other_shape, strict=True)],
        )


def _replacement(path: str, prepared: Mapping[str, object]) -> str:
    """Return the innermost layer around `path` that the prepared network has."""
    while path and path not in prepared:
        path = path.rpartition(".")[0]
    return path
