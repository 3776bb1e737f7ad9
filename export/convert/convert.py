"""Converts a network to ONNX: torch.onnx's dynamo exporter, then a fixed sequence of graph passes.

Requires: a prepared network (see prepare.py), and the interface of the model, which names inputs and outputs.
Ensures: a model with the requested opset, the network's inputs and the named outputs, all with a dynamic batch first;
height and width are dynamic if requested. ConversionError names the part of the network that prevents this.
"""

from collections.abc import Sequence

import onnx
from torch import nn

from export.convert.capture import Capture
from export.convert.dynamic_shapes import require_dynamic_axes, size_guards
from export.convert.dynamic_shapes_check import verify_outside_guards
from export.convert.passes.ceil_mode import count_as_pytorch
from export.convert.passes.graph_pass import Conversion, GraphPass
from export.convert.passes.opset import check_opset
from export.convert.passes.outputs import drop_tap_outputs, name_outputs
from export.convert.passes.pads import keep_pads
from export.convert.passes.sizes import name_sizes
from export.convert.taps import tapped
from export.convert.torch_exporter import branch_locator, export_program
from export.interface.interface import Interface
from export.names import BATCH, SPATIAL
from export.onnx_model.runtime import require_supported_opset

EXAMPLE_BATCH = 2  # not 1: torch.export treats a size of 1 as constant
PASSES: tuple[GraphPass, ...] = (check_opset, drop_tap_outputs, count_as_pytorch, keep_pads, name_sizes, name_outputs)


def convert(
    network: nn.Module, interface: Interface, opset: int, taps: Sequence[str] = (), *, dynamic_size: bool = False
) -> onnx.ModelProto:
    """Convert `network`, whose inputs and outputs are those of `interface`, and keep the outputs of the modules `taps`.

    The model still lacks what `interface.attach` adds. With `dynamic_size`, height and width are dynamic; they should
    differ from each other in `interface`.

    Raises: ConversionError.
    """
    require_supported_opset(opset)
    capture = Capture(network, interface.example(EXAMPLE_BATCH))
    with tapped(network, taps), capture.named_arguments():
        program, axes = export_program(capture, opset, interface.network_inputs, dynamic_size=dynamic_size)
        locate = branch_locator(capture, axes)
        axis_names = {axis: name for axis, name in {0: BATCH, **SPATIAL}.items() if axis in axes}
        require_dynamic_axes(program.exported_program, axis_names, locate)
    model = program.model_proto
    for graph_pass in PASSES:
        graph_pass(model, Conversion(opset, interface.network_outputs, taps))
    if dynamic_size:
        guards = size_guards(program.exported_program, axis_names)
        verify_outside_guards(model, network, guards, capture.arguments, locate)
    return model
