"""Step 9: from a mapped model to one that computes the same as PyTorch."""

from export.errors import dynamic_size_errors
from export.steps.stages import ShapesVerified, Verified
from export.verify.parity import check_parity


def verify_parity(context: ShapesVerified) -> Verified:
    """Compare every output and every layer with PyTorch, at several batch sizes and each size of the interface.

    Reads: `runs`, `model` and `layer_map`.
    Adds: `checks`.
    Changes: `layer_map`, into which the largest error of each layer is written.
    Ensures: all differences are within the tolerance derived from PyTorch's own float32 error.
    Raises: ParityError, ConversionError.
    """
    with dynamic_size_errors(context.settings.dynamic_size):
        checks = check_parity(context.model, context.layer_map, context.runs)
    return Verified(**vars(context), checks=checks)
