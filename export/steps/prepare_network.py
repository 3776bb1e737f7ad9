"""Step 2: from a loaded network to one that can be converted, with the interface of the model."""

from export.convert.adaptive_pools import require_no_adaptive_pools
from export.convert.prepare import prepare, require_no_size_padding
from export.interface.check_sizes import BATCH
from export.interface.head import head_of
from export.interface.interface import interface_of
from export.reference.preparation import preparation_errors
from export.steps.stages import Prepared, Source
from export.tracing.run import cpu_copy


def prepare_network(context: Source) -> Prepared:
    """Copy the network, make it convertible, and derive the model's interface from the settings.

    Reads: `source` and `settings`.
    Adds: `network` and `interface`.
    Ensures: `network` is on the CPU, in evaluation mode, in finite float32; the caller's network is unchanged.
    Raises: UnsupportedNetworkError, SettingsError.
    """
    source, settings = context.source, context.settings
    network = prepare(source.network, keep_branches=settings.keep_branches)
    if settings.dynamic_size:
        require_no_size_padding(network)
    head = head_of(source, settings.activation, settings.calibrated)
    with preparation_errors(lambda: interface_of(cpu_copy(source.network), source.preprocessing, settings, head)):
        interface = interface_of(network, source.preprocessing, settings, head)
    if settings.dynamic_size:
        require_no_adaptive_pools(network, interface.at(*interface.sizes[-1]).example(BATCH))
    return Prepared(**vars(context), network=network, interface=interface)
