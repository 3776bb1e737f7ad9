"""Step 10: from a mapped model to one that computes the same as PyTorch."""

from export.errors import dynamic_size_errors
from export.steps.stages import ShapesVerified, Verified
from export.verify.extremes import check_extremes
from export.verify.parity import check_parity


def verify_parity(context: ShapesVerified) -> Verified:
    """Compare every output and layer with PyTorch, at several batch sizes, each size and the ends of the input's range.

    Reads: `source`, `interface`, `runs`, `model` and `layer_map`.
    Adds: `checks` and `extremes`.
    Changes: `layer_map`, into which the largest error of each layer is written.
    Ensures: all differences are within the tolerance derived from PyTorch's own float32 error.
    Raises: ParityError, ConversionError.
    """
    with dynamic_size_errors(context.settings.dynamic_size):
        checks = check_parity(context.model, context.layer_map, context.runs)
        extremes = check_extremes(context.model, context.source.network, context.interface)
    return Verified(**vars(context), checks=checks, extremes=extremes)
