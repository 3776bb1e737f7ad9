"""Step 3: from a network to PyTorch's float32 results for the probe inputs."""

from export.reference.determinism import reference_runs
from export.steps.stages import Prepared, Reference


def run_reference(context: Prepared) -> Reference:
    """Run the network in PyTorch on the probe inputs, at each size of the interface.

    Reads: `network` and `interface`.
    Adds: `runs`; their float64 results are computed when first needed.
    Ensures: every output has a finite row for each input.
    Raises: UnsupportedNetworkError.
    """
    return Reference(**vars(context), runs=reference_runs(context.network, context.interface))
