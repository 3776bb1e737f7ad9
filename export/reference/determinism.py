"""Runs a network on the probe inputs, and rejects a network whose results vary between runs or batches.

Requires: a prepared network, and the interface of the model to be made from it.
Ensures: at each size of the interface, every output has a finite row for each input. After `require_deterministic`:
the outputs are the same in each run, and independent of earlier inputs and of the rest of the batch.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from export.errors import UnsupportedNetworkError, dynamic_size_errors
from export.interface.interface import Interface
from export.reference.expected import BATCH_RTOL, SINGLE_ROW, SMALL_BATCH, ReferenceRuns
from export.tracing.run import fresh_copy

LIMITS_HINT = " If it needs other values, such as a mask that is not empty, set limits: --input mask=1,64,64:0.1..1."


def reference_runs(network: nn.Module, interface: Interface) -> list[ReferenceRuns]:
    """Run `network` in float32 at each size of the interface. Raises: UnsupportedNetworkError."""
    own_size, *other_sizes = (interface.at(*size) for size in interface.sizes)
    fresh = fresh_copy(network)
    runs = [_run(network, own_size, fresh)]
    with dynamic_size_errors():
        return runs + [_run(network, other_size, fresh) for other_size in other_sizes]


def replace_unreliable_inputs(runs: Sequence[ReferenceRuns]) -> list[ReferenceRuns]:
    """Replace the inputs on which the network's float32 results are unreliable by noise.

    A norm over the pixels of a constant image divides by nearly 0, which amplifies rounding errors.
    """
    unreliable = {row for size_runs in runs for row in size_runs.pair.unreliable_rows(size_runs.count)}
    return [size_runs.with_noise(unreliable) for size_runs in runs] if unreliable else list(runs)


def _run(network: nn.Module, interface: Interface, fresh: nn.Module) -> ReferenceRuns:
    runs = ReferenceRuns(network, interface, fresh_copy(fresh))
    for name, value in runs.float32.outputs.items():
        _require_finite_rows(name, value, runs.count, "" if interface.sizes[0] else LIMITS_HINT)
    return runs


def _require_finite_rows(name: str, value: Tensor, count: int, hint: str) -> None:
    rows = value.shape[0] if value.ndim else 0
    if rows == count and not value.numel():
        raise UnsupportedNetworkError(f"the network's {name} has no elements: its shape is {list(value.shape)}.")
    if rows != count or not bool(torch.isfinite(value).all()):
        problem = "are not all finite" if rows == count else f"have {rows} rows"
        raise UnsupportedNetworkError(
            f"the network's {name} for {count} images {problem}: each image must have a finite row."
            + (hint if rows == count else "")
        )


def require_deterministic(runs: ReferenceRuns) -> None:
    """Reject a network whose output for an input depends on the run, on earlier inputs, or on the batch.

    Raises: UnsupportedNetworkError.
    """
    single, first_run = runs.run_single(), runs.run_single(fresh=True)
    for name, value in single.items():
        if not torch.equal(value, first_run[name]):
            raise UnsupportedNetworkError(_random(name) if _is_random(runs) else _stateful(name))
    _require_independent_rows(runs, single, SINGLE_ROW)
    _require_independent_rows(runs, runs.small_batch.outputs, slice(0, SMALL_BATCH))


def _require_independent_rows(runs: ReferenceRuns, outputs: Mapping[str, Tensor], rows: slice) -> None:
    """Reject a network whose `outputs` for the inputs `rows` differ from its outputs in the full batch."""
    for name, batch_output in runs.float32.outputs.items():
        if _agrees(outputs[name], batch_output, rows):
            continue
        if not torch.equal(runs.run_again()[name], batch_output):
            raise UnsupportedNetworkError(_random(name))
        raise UnsupportedNetworkError(
            f"the network's {name} for an image depend on the other images of its batch, which a server chooses: "
            f"{_cause_of_dependence(runs.network)}"
        )


def _cause_of_dependence(network: nn.Module) -> str:
    norms = (path for path, module in network.named_modules() if isinstance(module, _BatchNorm))
    without_statistics = [path for path in norms if network.get_submodule(path).running_mean is None]
    if without_statistics:
        return (
            f"the layer '{without_statistics[0]}' has no running statistics and normalises by those of the batch: "
            "create it with track_running_stats=True."
        )
    return "does a norm use the batch's own statistics, or does the forward read a value such as x.max()?"


def _is_random(runs: ReferenceRuns) -> bool:
    """Return whether the network draws random numbers, even unused ones, or its outputs vary between two runs."""
    state, outputs = torch.get_rng_state(), runs.run_single()
    draws = not torch.equal(state, torch.get_rng_state())
    return draws or any(not torch.equal(value, outputs[name]) for name, value in runs.run_single().items())


def _random(name: str) -> str:
    return (
        f"the network's {name} for the same images differ in each run: does its forward draw random numbers, "
        "as dropout, torch.randn or gumbel_softmax do?"
    )


def _stateful(name: str) -> str:
    return (
        f"the network's {name} for an image depend on earlier inputs, but an ONNX model is stateless: "
        "does its forward write to a buffer or an attribute?"
    )


def _agrees(rows: Tensor, batch_output: Tensor, index: slice) -> bool:
    batch_rows = batch_output[index] if rows.ndim else batch_output
    if rows.shape != batch_rows.shape or not batch_rows.is_floating_point():
        return torch.equal(rows, batch_rows)
    return torch.allclose(rows, batch_rows, rtol=0.0, atol=BATCH_RTOL * float(batch_output.abs().max()))
