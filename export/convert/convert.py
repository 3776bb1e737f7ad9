"""PyTorch to ONNX, by torch.onnx's dynamo exporter.

Requires: a prepared network (see prepare.py), the size of one input, and as many names as the network gives tensors.
Ensures: a model with the asked opset, one input `x` and the named outputs, all with a free batch first; height
and width are free where that is asked for, or ConversionError says what in the network fixes them.
"""

import contextlib
import io
import logging
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import redirect_stderr, redirect_stdout
from typing import Any

import onnx
import torch
from torch import nn

from export.convert.branch_locations import places
from export.convert.diagnosis import explain
from export.convert.dynamic_shapes import Where, conditions, require_free
from export.convert.dynamic_shapes_check import require_same
from export.convert.pads import keep_pads
from export.convert.taps import tapped
from export.errors import ConversionError
from export.names import BATCH, HEIGHT, INPUT, LOGITS, WIDTH
from export.onnx_model.rename import name_outputs
from export.onnx_model.runtime import require_runs

LEASTS = (1, 8, 32)  # heights and widths from which on a network may run: a norm takes no map of one place
NO_LEAST = re.compile("Constraints violated|appropriate min value")  # how PyTorch says that a least is missing
EXAMPLE_BATCH = 2  # not 1: the exporter would take a batch of 1 for a constant


def convert(
    network: nn.Module,
    input_size: tuple[int, ...],
    opset: int,
    outputs: Sequence[str] = (LOGITS,),
    taps: Sequence[str] = (),
    *,
    dynamic_size: bool = False,
) -> onnx.ModelProto:
    """Convert `network`, which takes float32 (N, *input_size); keep what the modules at the paths `taps` give.

    With `dynamic_size` the height and the width are free; those of `input_size` should then differ from each other.

    Raises: ConversionError.
    """
    require_runs(opset)
    example = torch.zeros(EXAMPLE_BATCH, *input_size)
    with tapped(network, taps):
        program, free = _program(network, example, opset, LEASTS if dynamic_size else ())
        where = _where(network, example, (free,))
        names = {axis: each.__name__ for axis, each in free.items()}
        require_free(program.exported_program, names, where)
    model, given = program.model_proto, conditions(program.exported_program, names)
    _require_opset(model, opset)
    if taps:
        del model.graph.output[len(outputs) :]
    _require_count(model, outputs)
    keep_pads(model)
    if dynamic_size:
        require_same(model, network, given, example, where)
    name_outputs(model, outputs)
    return model


def _free_axes(least: int | None) -> dict[int, Any]:
    """The batch, and with a `least` also the height and the width."""
    sizes = {2: (HEIGHT, least), 3: (WIDTH, least)} if least else {}
    return {axis: torch.export.Dim(name, min=low) for axis, (name, low) in {0: (BATCH, 1), **sizes}.items()}


def _where(network: nn.Module, example: torch.Tensor, dynamic_shapes: Any) -> Where:
    def where(noted: str) -> str:
        with silence_exporter():
            return places(network, example, dynamic_shapes).get(noted, "")

    return where


def _program(
    network: nn.Module, example: torch.Tensor, opset: int, leasts: Sequence[int]
) -> tuple[torch.onnx.ONNXProgram, dict[int, Any]]:
    """The converted network, and its free axes: of those `leasts` that PyTorch can do with, the first is taken.

    What is smaller than that is for require_same to try.
    """
    least, *others = leasts or (None,)
    free = _free_axes(least)
    try:
        return _converted(network, example, opset, free), free
    except torch.onnx.errors.OnnxExporterError as error:
        if others and min(example.shape[2:]) >= others[0] and _lacks_least(error):
            return _program(network, example, opset, others)
        with silence_exporter():
            why = explain(network, example, (free,), error)
        raise ConversionError(f"torch.onnx cannot convert {type(network).__name__}: {why}.") from error


def _lacks_least(error: BaseException | None) -> bool:
    return error is not None and (NO_LEAST.search(str(error)) is not None or _lacks_least(error.__cause__))


def _converted(network: nn.Module, example: torch.Tensor, opset: int, free: dict[int, Any]) -> torch.onnx.ONNXProgram:
    with silence_exporter():
        program = torch.onnx.export(
            network,
            (example,),
            dynamo=True,
            opset_version=opset,
            input_names=[INPUT],
            dynamic_shapes=(free,),
            external_data=False,
            verbose=False,
        )
    if program is None:
        raise ConversionError(f"torch.onnx returned nothing for {type(network).__name__}.")
    return program


def _require_opset(model: onnx.ModelProto, opset: int) -> None:
    """The exporter keeps its own opset, silently, where it cannot translate: look at what it wrote."""
    written = {entry.domain: entry.version for entry in model.opset_import}
    if written.get("") != opset:
        raise ConversionError(
            f"opset {opset} was asked for, but this torch wrote opset {written.get('')}: choose another --opset."
        )


def _require_count(model: onnx.ModelProto, outputs: Sequence[str]) -> None:
    if len(model.graph.output) != len(outputs):
        raise ConversionError(
            f"the network gives {len(outputs)} tensors, but torch.onnx wrote a model that gives {len(model.graph.output)}."
        )


@contextlib.contextmanager
def silence_exporter() -> Iterator[None]:
    """Hold back what the exporter prints and logs: what matters is checked on the model it returns."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
