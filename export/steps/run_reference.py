"""Step 3: from a network to PyTorch's float32 results for the probe inputs."""

from export.reference.determinism import reference_runs
from export.reference.expected import SMALL_BATCH
from export.reference.preparation import preparation_errors
from export.steps.stages import Prepared, Reference
from export.tracing.run import cpu_copy, run


def run_reference(context: Prepared) -> Reference:
    """Run the network in PyTorch on the probe inputs, at each size of the interface.

    Reads: `source`, `network` and `interface`.
    Adds: `runs`; their float64 results are computed when first needed.
    Ensures: every output has a finite row for each input.
    Raises: UnsupportedNetworkError.
    """
    interface = context.interface
    with preparation_errors(lambda: run(cpu_copy(context.source.network), interface.example(SMALL_BATCH))):
        runs = reference_runs(context.network, interface)
    return Reference(**vars(context), runs=runs)
