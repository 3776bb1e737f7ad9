"""Step 6: from PyTorch's float32 results to a reference that is reliable and deterministic."""

from dataclasses import replace

import onnx

from export.errors import UnsupportedNetworkError
from export.onnx_model.random_nodes import random_nodes
from export.reference.determinism import replace_unreliable_inputs, require_deterministic
from export.steps.stages import Converted


def screen_reference(context: Converted) -> Converted:
    """Run PyTorch in float64, replace probe inputs on which float32 is unreliable, and require deterministic results.

    This step follows the conversion: a forward that branches on values fails in both, but only the conversion reports
    the line.

    Reads and replaces: `runs`.
    Reads: `model`, in which no node may draw random numbers, however rarely they have an effect.
    Ensures: `runs` are independent of earlier inputs and of the rest of the batch; their float32 error is small enough
    to compare with, or the input is noise.
    Raises: UnsupportedNetworkError.
    """
    screened = replace_unreliable_inputs(context.runs)
    for runs in screened:
        require_deterministic(runs)
    _require_no_random_nodes(context.model)
    return replace(context, runs=screened)


def _require_no_random_nodes(model: onnx.ModelProto) -> None:
    """Reject a network that draws random numbers, even where its results happened to be equal. Raises: as above."""
    for operation, path in random_nodes(model):
        where = f" in its layer '{path}'" if path else ""
        raise UnsupportedNetworkError(
            f"the network draws random numbers{where}, so that the same images can have other results in the next run "
            f"(the file would have ONNX's {operation}): remove what draws them, or give F.dropout training=False."
        )
