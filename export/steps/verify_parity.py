"""Step 10: from a mapped model to one that computes the same as PyTorch."""

from export.errors import dynamic_size_errors
from export.steps.stages import ShapesVerified, Verified
from export.verify.export_flags import branch_errors, export_flag, export_flag_errors, value_read
from export.verify.extremes import check_extremes, check_out_of_range
from export.verify.model_runner import ModelRunner
from export.verify.parity import check_parity


def verify_parity(context: ShapesVerified) -> Verified:
    """Compare every output and layer with PyTorch, at several batch sizes, each size and the ends of the input's range.

    A network that asks whether it is exported, or that reads a value of a tensor, is compared on inputs far out of that
    range, too.

    Reads: `source`, `interface`, `runs`, `model` and `layer_map`.
    Adds: `checks` and `extremes`.
    Changes: `layer_map`, into which the largest error of each layer is written.
    Ensures: all differences are within the tolerance derived from PyTorch's own float32 error.
    Raises: ParityError, ConversionError.
    """
    network, interface, layer_map = context.source.network, context.interface, context.layer_map
    arguments = interface.arguments(interface.noise(1))
    with dynamic_size_errors(context.settings.dynamic_size), export_flag_errors(network, arguments):
        runner = ModelRunner(context.model)
        checks = check_parity(runner, layer_map, context.runs)
        extremes = check_extremes(runner, layer_map, network, interface)
        if export_flag(network, arguments):
            check_out_of_range(runner, layer_map, network, interface)
        elif read := value_read(network, arguments):
            with branch_errors(read):
                check_out_of_range(runner, layer_map, network, interface)
    return Verified(**vars(context), checks=checks, extremes=extremes)
