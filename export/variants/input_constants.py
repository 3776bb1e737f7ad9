"""How images enter an int8 model: the normalisation's constants, laid out for what onnxruntime makes of them.

Around int8 convolutions onnxruntime lays images out with channels last. A constant for each of 3 channels is then
applied 3 numbers at a time, which takes a fifth of resnet18's time; spread along the width it is applied a row at a
time.

Requires: an exported model.
Ensures: the same numbers. Where the width is free, or the input is no image, the model stays as it is.
"""

import numpy as np
import onnx
from onnx import numpy_helper

from export.interface.image_io import CONSTANTS, IMAGE


def spread_constants(model: onnx.ModelProto) -> None:
    """Repeat the constants of `model`, (1, C, 1, 1), along the width of its images: (1, C, 1, W)."""
    info = model.graph.input[0]
    width = info.type.tensor_type.shape.dim[2].dim_value if info.name == IMAGE else 0
    if not width:
        return
    for weight in model.graph.initializer:
        if weight.name in CONSTANTS:
            spread = np.tile(numpy_helper.to_array(weight), (1, 1, 1, width))
            weight.CopyFrom(numpy_helper.from_array(spread, weight.name))
