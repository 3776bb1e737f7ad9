"""Whether a file with a free height and width is right where its graph took another size for granted.

PyTorch's capture notes what it took for granted about the sizes. That is not yet a fault: a layer needs a least size,
and a network that pads to a multiple asks whether there is anything to pad, to the same effect. So the file is run where a
condition does not hold, and compared with PyTorch.

Requires: a converted model, the network that it came from, and the conditions of its graph.
Ensures: where a condition does not hold, PyTorch cannot run the network either, or the file gives what PyTorch gives there.
"""

import contextlib
from collections.abc import Iterator, Sequence
from math import prod

import numpy as np
import onnx
import torch
from torch import nn

from export.convert.dynamic_shapes import Condition, Where
from export.errors import ConversionError, UnsupportedNetworkError
from export.interface.net_outputs import named_outputs
from export.onnx_model.runtime import Runtime
from export.reference.tolerance import compare
from export.tracing.lane_sums import NormsSeen, SumsInLanes
from export.tracing.run import run, run_in_float64

LARGER = 64  # than the example, by so much at most: some of these break what a network may ask of a remainder
FAR = (2, 4, 16)  # times that size: where a condition breaks there alone, no check would be quick
BATCHES = (2, 3, 5, 16, 32, 64, 128, 256)
LARGEST = 16  # times the example's pixels, in a comparison


def require_same(
    model: onnx.ModelProto, network: nn.Module, given: Sequence[Condition], example: torch.Tensor, where: Where
) -> None:
    """Run `model` and `network` where one of the conditions does not hold; `example` is what the graph was captured on.

    Raises: ConversionError, with the condition.
    """
    runtime = Runtime(model, optimise=False) if given else None  # as it is written: an error then names the layer
    for condition in given:
        for sizes in _sizes(condition, example):
            if runtime is None or prod(sizes) > LARGEST * example.numel() or not _agrees(runtime, network, sizes):
                raise ConversionError(
                    f"{condition.refusal(where)}, not for an input of {'x'.join(map(str, sizes))}: "
                    "let one way do for every size, or export it for one size, without --dynamic-size."
                )


def _sizes(condition: Condition, example: torch.Tensor) -> list[tuple[int, ...]]:
    """The nearest and the smallest sizes near the example's for which the condition does not hold; else any far one."""
    broken = [each for each in _near(example) if not condition.holds(dict(enumerate(each)))]
    if broken:
        nearest = min(broken, key=lambda each: sum(abs(a - b) for a, b in zip(each, example.shape, strict=True)))
        return list(dict.fromkeys([nearest, min(broken, key=prod)]))
    return [each for each in _far(example) if not condition.holds(dict(enumerate(each)))][:1]


def _near(example: torch.Tensor) -> Iterator[tuple[int, ...]]:
    batch, channels, height, width = example.shape
    for step in range(-max(height, width), LARGER + 1):
        for other in {0, step, -step}:
            yield from _there(batch, channels, height + step, width + other)
            yield from _there(batch, channels, height + other, width + step)
    for several in BATCHES:
        yield several, channels, height, width


def _there(*sizes: int) -> Iterator[tuple[int, ...]]:
    if min(sizes) > 0:
        yield sizes


def _far(example: torch.Tensor) -> Iterator[tuple[int, ...]]:
    batch, channels, height, width = example.shape
    for times in FAR:
        yield from ((batch, channels, height * times, width * more) for more in (1, times))
        yield batch, channels, height, width * times


def _agrees(runtime: Runtime, network: nn.Module, sizes: tuple[int, ...]) -> bool:
    """Whether the file gives what the network gives, or the network gives nothing."""
    x = torch.from_numpy(np.random.default_rng(0).standard_normal(sizes, np.float32))
    try:
        given = named_outputs(run(network, x.clone()))
    except UnsupportedNetworkError:
        return True
    with NormsSeen() as norms:
        exact, _ = run_in_float64(network, x.clone())
    with SumsInLanes() if norms.any else contextlib.nullcontext():
        other = named_outputs(run(network, x.clone())) if norms.any else given
    try:
        got = runtime.run({runtime.input_names[0]: x.numpy()}, runtime.output_names)
    except ConversionError as error:
        raise ConversionError(f"the input's height and width cannot be free: {error}") from error
    found = zip(got.values(), *(each.values() for each in (given, named_outputs(exact), other)), strict=True)
    return all(compare(each, *(tensor.numpy() for tensor in tensors)).holds for each, *tensors in found)
