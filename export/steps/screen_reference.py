"""Step 6: from PyTorch's float32 results to a reference that is reliable and deterministic."""

from dataclasses import replace

from export.reference.determinism import replace_unreliable_inputs, require_deterministic
from export.steps.stages import Converted


def screen_reference(context: Converted) -> Converted:
    """Run PyTorch in float64, replace probe inputs on which float32 is unreliable, and require deterministic results.

    This step follows the conversion: a forward that branches on values fails in both, but only the conversion reports
    the line.

    Reads and replaces: `runs`.
    Ensures: `runs` are independent of earlier inputs and of the rest of the batch; their float32 error is small enough
    to compare with, or the input is noise.
    Raises: UnsupportedNetworkError.
    """
    screened = replace_unreliable_inputs(context.runs)
    for runs in screened:
        require_deterministic(runs)
    return replace(context, runs=screened)
