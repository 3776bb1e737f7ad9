"""Calls torch.onnx's dynamo exporter, silently, with dynamic axes."""

import contextlib
import io
import logging
import math
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import redirect_stderr, redirect_stdout
from types import SimpleNamespace
from typing import Any

import torch
from onnxscript.rewriter import _matcher
from torch import nn

from export.convert import attention, logarithms
from export.convert.branch_locations import branch_locations
from export.convert.capture import Axes, Capture
from export.convert.diagnosis import explain
from export.convert.dynamic_shapes import LocateBranch
from export.errors import ConversionError
from export.names import BATCH, PART, SPATIAL
from export.tracing.arguments import Arguments

FLOAT32_EPSILON = 2.0**-23
MIN_SIZES = (1, 8, 32)  # candidates for the least height and width: a norm rejects a map of one place
MULTIPLES = (1, 2, 4, 8, 16, 32)  # of which height and width may have to be: a network adds maps of rounded sizes
# PyTorch's messages where a minimum or a multiple is missing.
OTHER_AXES_NEEDED = re.compile("Constraints violated|appropriate min value|solve_univariate_inequality")


def export_program(
    capture: Capture, opset: int, input_names: Sequence[str], *, dynamic_size: bool
) -> tuple[torch.onnx.ONNXProgram, Axes]:
    """Return the converted network, and its dynamic axes; `input_names` are in the order of the arguments.

    With `dynamic_size`, height and width are multiples of the first of MULTIPLES, with the first minimum of MIN_SIZES,
    that PyTorch accepts; dynamic_shapes_check.py verifies other sizes.

    Raises: ConversionError.
    """
    candidates = _candidates(capture.arguments.leaves[0].shape[2:]) if dynamic_size else [_axes()]
    return _export_program(capture, opset, input_names, candidates)


def _candidates(size: Sequence[int]) -> list[Axes]:
    multiples = [multiple for multiple in MULTIPLES if not any(length % multiple for length in size)]
    minimums = [minimum for minimum in MIN_SIZES if minimum == MIN_SIZES[0] or minimum <= min(size)]
    return [_axes(multiple, max(1, minimum // multiple)) for multiple in multiples for minimum in minimums]


def branch_locator(capture: Capture, axes: Axes) -> LocateBranch:
    """Return a function that locates the branch behind an assumption, by capturing the network once more."""

    def locate(expression: str) -> str:
        with silence_exporter():
            return branch_locations(capture, axes).get(expression, "")

    return locate


@contextlib.contextmanager
def silence_exporter() -> Iterator[None]:
    """Suppress the exporter's output, logs and warnings; the model that it returns is checked instead."""
    disabled_level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled_level)


@contextlib.contextmanager
def exact_constants() -> Iterator[None]:
    """Make the exporter's optimiser compare constants to float32's precision.

    Its own tolerances, 1e-5 relative and 1e-8 absolute, take `x + 1e-8` for `x + 0` and remove the addition, which
    turns a division by zero that the network avoids into NaN.
    """
    comparison = SimpleNamespace(isclose=lambda a, b, **_: math.isclose(a, b, rel_tol=FLOAT32_EPSILON, abs_tol=0.0))
    original = vars(_matcher)["math"]
    vars(_matcher)["math"] = comparison
    try:
        yield
    finally:
        vars(_matcher)["math"] = original


def _export_program(
    capture: Capture, opset: int, input_names: Sequence[str], candidates: Sequence[Axes]
) -> tuple[torch.onnx.ONNXProgram, Axes]:
    axes, *others = candidates
    try:
        return _call_exporter(capture, opset, input_names, axes), axes
    except torch.onnx.errors.OnnxExporterError as error:
        if others and _needs_other_axes(error):
            return _export_program(capture, opset, input_names, others)
        with silence_exporter():
            cause = explain(capture, axes, error)
        raise ConversionError(f"torch.onnx cannot convert {type(capture.network).__name__}: {cause}.") from error


def _axes(multiple: int = 0, minimum: int = 1) -> Axes:
    """Return the batch axis, and with a `multiple` also height and width, which are it times at least `minimum`."""
    batch = {0: torch.export.Dim(BATCH, min=1)}
    return batch | {axis: _axis(name, multiple, minimum) for axis, name in SPATIAL.items() if multiple}


def _axis(name: str, multiple: int, minimum: int) -> Any:
    if multiple == 1:
        return torch.export.Dim(name, min=minimum)
    return multiple * torch.export.Dim(f"{name}{PART}", min=minimum)


def _enables_grad(network: nn.Module, arguments: Arguments) -> bool:
    """Return whether the network's forward enables gradients, as none that only infers does.

    Where a forward changes the gradient mode, torch.export captures the modules inside as a function of its own, and
    forgets which they are. So the mode outside is the one that the forward uses.
    """
    modes: list[bool] = []
    handles = [
        module.register_forward_hook(lambda *_: modes.append(torch.is_grad_enabled())) for module in network.modules()
    ]
    try:
        with contextlib.suppress(Exception, SystemExit):  # the exporter reports a failing forward
            arguments.call(network)
    finally:
        for handle in handles:
            handle.remove()
    return any(modes)


def _needs_other_axes(error: BaseException | None) -> bool:
    return error is not None and (
        OTHER_AXES_NEEDED.search(str(error)) is not None or _needs_other_axes(error.__cause__)
    )


def _call_exporter(capture: Capture, opset: int, input_names: Sequence[str], axes: Axes) -> torch.onnx.ONNXProgram:
    network, arguments = capture.network, capture.arguments
    with silence_exporter(), exact_constants(), torch.set_grad_enabled(_enables_grad(network, arguments)):
        program = torch.onnx.export(
            network,
            (*arguments.args, dict(arguments.kwargs)),  # a dict at the end holds the keyword arguments
            dynamo=True,
            opset_version=opset,
            input_names=input_names,
            dynamic_shapes=capture.dynamic_shapes(axes),
            external_data=False,
            verbose=False,
            custom_translation_table={**attention.translations(opset), **logarithms.TRANSLATIONS},
        )
    if program is None:
        raise ConversionError(f"torch.onnx returned nothing for {type(network).__name__}.")
    return program
