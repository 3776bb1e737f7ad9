"""Step 7: from a prepared network to one that is known to compute what the original does."""

from export.reference.preparation import verify_preparation as compare_with_original
from export.steps.stages import Converted, PreparationVerified


def verify_preparation(context: Converted) -> PreparationVerified:
    """Compare the prepared network with the original one, at every batch size and each size of the interface.

    Reads: `source` and `runs`.
    Adds: `removed_layers`.
    Ensures: outputs and common layers of both agree within the tolerance that follows from PyTorch's float32 error.
    Raises: ConversionError, UnsupportedNetworkError.
    """
    removed = compare_with_original(context.source.network, context.runs)
    return PreparationVerified(**vars(context), removed_layers=removed)
