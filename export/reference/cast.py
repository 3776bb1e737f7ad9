"""Casts a network of another precision to float32, from which models are exported, and measures what that changes.

Requires: any network, and PyTorch's results for it in float32.
Ensures: a network whose weights are float32 is used as it is; of another one, a copy in which every floating-point
tensor, also in plain attributes, is float32. The differences are reported, not judged: float16 is less exact.
"""

import numpy as np
import torch
from torch import nn

from export.arrays import Array
from export.errors import UnsupportedNetworkError
from export.reference.expected import ReferenceRuns
from export.reference.tolerance import distance
from export.tensors import converted, held_tensors
from export.tracing.run import cpu_copy, run
from protos import manifest

MAX_MESSAGE = 200  # characters of an error that are reported


def in_float32(network: nn.Module) -> nn.Module:
    """Return `network` in float32. Raises: UnsupportedNetworkError if it or a weight cannot be converted."""
    if weights_dtype(network) == torch.float32:
        return network
    _require_range(network)
    floating = ((path, tensor) for path, tensor in held_tensors(network) if tensor.is_floating_point())
    return converted(network, floating, lambda tensor: tensor.to(torch.float32))


def _require_range(network: nn.Module) -> None:
    """Reject a network with a finite weight that is infinite in float32. Raises: UnsupportedNetworkError."""
    for path, parameter in network.named_parameters():
        weight = parameter.detach()
        if weight.is_floating_point() and bool((weight.isfinite() & ~weight.float().isfinite()).any()):
            largest = float(weight[weight.isfinite()].abs().max())
            raise UnsupportedNetworkError(
                f"the weight '{path}' has values up to {largest:.3g}, but models are exported from float32, which ends "
                "at 3.4e+38: scale the weights down."
            )


def weights_dtype(network: nn.Module) -> torch.dtype:
    """Return the precision of the first weight that is not float32; float32 if all are."""
    dtypes = (weight.dtype for weight in network.parameters() if weight.is_floating_point())
    return next((dtype for dtype in dtypes if dtype != torch.float32), torch.float32)


def measure_cast(given: nn.Module, runs: ReferenceRuns) -> manifest.Cast:
    """Return the largest difference of each output between `given`, in its own precision, and float32."""
    dtype = weights_dtype(given)
    name = str(dtype).removeprefix("torch.")
    arguments = runs.interface.arguments(runs.inputs(runs.count)).cast(dtype)
    try:
        outputs = runs.interface.model_outputs(run(cpu_copy(given), arguments))
    except UnsupportedNetworkError as error:
        return manifest.Cast(dtype=name, failure=str(error)[:MAX_MESSAGE])
    differences = [
        _difference(output, np.asarray(runs.float32.outputs[output]), np.asarray(value.double()))
        for output, value in outputs.items()
    ]
    return manifest.Cast(dtype=name, differences=differences)


def _difference(output: str, float32: Array, given: Array) -> manifest.OutputDifference:
    difference = distance(given, np.asarray(float32, np.float64))
    return manifest.OutputDifference(
        output=output,
        max_abs_difference=float(f"{difference:.2e}"),
        magnitude=float(f"{np.max(np.abs(float32), initial=0.0):.2e}"),
    )
