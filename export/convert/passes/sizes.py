"""Expresses the dynamic dimensions of a model by height and width.

If a network accepts only multiples of a size, torch.export captures the size as a multiple of another dimension,
which torch.onnx then names in the model.
"""

import re
from collections.abc import Iterator

import onnx

from export.convert.passes.graph_pass import Conversion
from export.names import PART

MULTIPLE = re.compile(rf"(?P<multiple>\d+)\*(?P<size>\w+){PART}")


def name_sizes(model: onnx.ModelProto, _conversion: Conversion) -> None:
    """Replace each dimension `4*height_part` by `height`, and `height_part` in an expression by `(height//4)`.

    Requires: the dimensions of the input are names, or a number times a name that ends with PART.
    Ensures: dimensions are expressions of the batch, height and width.
    """
    matches = [match for dim in _dimensions(model.graph.input[0]) if (match := MULTIPLE.fullmatch(dim.dim_param))]
    infos = (*model.graph.input, *model.graph.value_info, *model.graph.output)
    for dim in (dim for info in infos for dim in _dimensions(info)):
        for match in matches:
            dim.dim_param = _by_size(dim.dim_param, match)


def _by_size(expression: str, match: re.Match[str]) -> str:
    size, multiple = match["size"], match["multiple"]
    whole = re.sub(rf"\b{multiple}\*{size}{PART}\b", size, expression)
    return re.sub(rf"\b{size}{PART}\b", f"({size}//{multiple})", whole)


def _dimensions(info: onnx.ValueInfoProto) -> Iterator[onnx.TensorShapeProto.Dimension]:
    yield from (dim for dim in info.type.tensor_type.shape.dim if dim.HasField("dim_param"))
