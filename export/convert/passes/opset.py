"""Checks the opset of a converted model."""

import onnx

from export.convert.passes.graph_pass import Conversion
from export.errors import ConversionError


def check_opset(model: onnx.ModelProto, conversion: Conversion) -> None:
    """Check that the model has the requested opset.

    If torch.onnx cannot convert a model to the requested opset, it writes another one without an error.

    Requires: a model as torch.onnx wrote it.
    Ensures: the opset of the default domain is `conversion.opset`. Raises: ConversionError.
    """
    opsets = {entry.domain: entry.version for entry in model.opset_import}
    if opsets.get("") != conversion.opset:
        raise ConversionError(
            f"opset {conversion.opset} was requested, but this torch wrote opset {opsets.get('')}: "
            "choose another --opset."
        )
