"""Verifies a model with dynamic height and width at sizes that violate the guards of its graph.

A violated guard is not necessarily an error: a layer may need a minimum size, and a network that pads to a multiple may
branch on whether padding is necessary, with the same result in both branches. So the file is run at sizes that violate
a guard, and compared with PyTorch.

Requires: a converted model, the network that it was made from, and the guards of its graph.
Ensures: at sizes that violate a guard, PyTorch fails too, or the file computes the same as PyTorch.
"""

import contextlib
from collections.abc import Iterator, Sequence
from math import prod

import numpy as np
import onnx
import torch
from torch import nn

from export.convert.dynamic_shapes import Guard, LocateBranch
from export.errors import ConversionError, UnsupportedNetworkError, dynamic_size_errors
from export.interface.network_outputs import named_outputs
from export.onnx_model.runtime import Runtime
from export.reference.tolerance import compare
from export.tracing.arguments import Arguments
from export.tracing.lane_sums import LaneSummation, SumDetector
from export.tracing.run import run, run_in_float64

MAX_INCREASE = 64  # of height and width over those of the example: enough to violate most conditions on a remainder
LARGER_MULTIPLES = (2, 4, 16)  # of the example's size, for guards that only much larger sizes violate
BATCHES = (2, 3, 5, 16, 32, 64, 128, 256)
MAX_PIXELS = 16  # multiple of the example's pixels: larger comparisons would take too long

Shape = tuple[int, ...]  # batch, channels, height, width


def verify_outside_guards(
    model: onnx.ModelProto, network: nn.Module, guards: Sequence[Guard], example: Arguments, locate: LocateBranch
) -> None:
    """Compare `model` with `network` at sizes that violate a guard; `example` has the image of the capture.

    Raises: ConversionError, with the guard.
    """
    runtime = Runtime(model, optimise=False) if guards else None  # unoptimised, so that its errors name the layer
    (image,) = example.leaves
    for guard in guards:
        for shape in _violating_shapes(guard, image):
            too_large = prod(shape) > MAX_PIXELS * image.numel()
            if runtime is None or too_large or not _agrees(runtime, network, _noise(example, shape)):
                raise ConversionError(
                    f"{guard.rejection(locate)}, not for an input of {'x'.join(map(str, shape))}: "
                    "remove the size-dependent branch, or drop --dynamic-size."
                )


def _violating_shapes(guard: Guard, example: torch.Tensor) -> list[Shape]:
    """Return the nearest and the smallest shape near the example's that violate the guard, else one larger shape."""
    near = [shape for shape in _near_shapes(example) if not guard.holds(dict(enumerate(shape)))]
    if near:
        nearest = min(near, key=lambda shape: sum(abs(a - b) for a, b in zip(shape, example.shape, strict=True)))
        return list(dict.fromkeys([nearest, min(near, key=prod)]))
    return [shape for shape in _larger_shapes(example) if not guard.holds(dict(enumerate(shape)))][:1]


def _near_shapes(example: torch.Tensor) -> Iterator[Shape]:
    batch, channels, height, width = example.shape
    for step in range(-max(height, width), MAX_INCREASE + 1):
        for other in {0, step, -step}:
            yield from _if_positive(batch, channels, height + step, width + other)
            yield from _if_positive(batch, channels, height + other, width + step)
    for other_batch in BATCHES:
        yield other_batch, channels, height, width


def _if_positive(*shape: int) -> Iterator[Shape]:
    if min(shape) > 0:
        yield shape


def _larger_shapes(example: torch.Tensor) -> Iterator[Shape]:
    batch, channels, height, width = example.shape
    for multiple in LARGER_MULTIPLES:
        yield batch, channels, height * multiple, width
        yield batch, channels, height * multiple, width * multiple
        yield batch, channels, height, width * multiple


def _noise(example: Arguments, shape: Shape) -> Arguments:
    return example.map(lambda _: torch.from_numpy(np.random.default_rng(0).standard_normal(shape, np.float32)))


def _agrees(runtime: Runtime, network: nn.Module, noise: Arguments) -> bool:
    """Return whether the file agrees with the network for an image, or the network fails."""
    try:
        float32 = named_outputs(run(network, noise.cast(torch.float32)))
    except UnsupportedNetworkError:
        return True
    with SumDetector() as sums:
        network_output = run_in_float64(network, noise.cast(torch.float32))
    float64 = named_outputs(network_output)
    with LaneSummation() if sums.detected else contextlib.nullcontext():
        lanes = named_outputs(run(network, noise.cast(torch.float32))) if sums.detected else float32
    with dynamic_size_errors():
        outputs = runtime.run({runtime.input_names[0]: noise.leaves[0].numpy()}, runtime.output_names)
    references = zip(float32.values(), float64.values(), lanes.values(), strict=True)
    return all(
        compare(output, *(tensor.numpy() for tensor in reference)).holds
        for output, reference in zip(outputs.values(), references, strict=True)
    )
