"""The interface of a graph pass."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import onnx


@dataclass(frozen=True)
class Conversion:
    """The request that the converted model must fulfil.

    Attributes:
        opset: The ONNX operator set.
        output_names: The names of the model's outputs, in the network's order.
        taps: Paths of the modules whose outputs the file must keep.
    """

    opset: int
    output_names: Sequence[str]
    taps: Sequence[str] = ()


class GraphPass(Protocol):
    """Rewrites a model in place, or checks it.

    The docstring of each pass states what it requires of the model, and what it ensures. To add a pass, write a
    function in a file of this package and add it to PASSES in export/convert/convert.py.
    """

    def __call__(self, model: onnx.ModelProto, conversion: Conversion, /) -> None:
        """Apply the pass. Raises: ConversionError."""
