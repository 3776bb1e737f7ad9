"""Step 7: from a prepared network to one that is known to compute what the original does."""

from export.reference.cast import measure_cast
from export.reference.preparation import verify_preparation as compare_with_original
from export.steps.stages import Converted, PreparationVerified


def verify_preparation(context: Converted) -> PreparationVerified:
    """Compare the prepared network with the original one, at every batch size and each size of the interface.

    If the network was cast to float32, also measure how much that changed its outputs.

    Reads: `source`, `given` and `runs`.
    Adds: `removed_layers` and `cast`.
    Ensures: outputs and common layers of both agree within the tolerance that follows from PyTorch's float32 error.
    Raises: ConversionError, UnsupportedNetworkError.
    """
    removed = compare_with_original(context.source.network, context.runs)
    is_cast = context.given is not context.source.network
    cast = measure_cast(context.given, context.runs[0]) if is_cast else None
    return PreparationVerified(**vars(context), removed_layers=removed, cast=cast)
