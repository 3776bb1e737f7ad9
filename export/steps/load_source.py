"""Step 1: from the caller's network to a network with preprocessing and labels."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from torch import nn

from export.artifact import repository
from export.errors import SettingsError, SourceError
from export.reference.cast import in_float32
from export.settings import ExportSettings
from export.source.module import loaded_module, module_with_inputs, supported
from export.source.source_network import SourceNetwork
from export.steps.stages import Source
from zoo import LoadedNetwork, ZooError, load_network
from zoo.networks.preprocessing import Preprocessing


def load_source(
    network: SourceNetwork | LoadedNetwork | nn.Module | Path | str,
    settings: ExportSettings,
    preprocessing: Preprocessing | None,
    labels: Sequence[str],
) -> Source:
    """Combine the network with its preprocessing and labels, and cast it to float32 if it has another precision.

    Adds: `source`, `given` and `settings`.
    Ensures: the network is loaded, without wrappers, in float32; the repository is writable.
    Raises: RepositoryError, SettingsError, SourceError, UnsupportedNetworkError.
    """
    if isinstance(network, str | Path):
        network = _loaded(network)
    if not isinstance(network, LoadedNetwork | SourceNetwork):
        source = _from_module(network, settings, preprocessing, labels)
    elif preprocessing is not None or labels:
        raise SettingsError(
            "a loaded network has its own preprocessing and labels: change them with dataclasses.replace."
        )
    else:
        source = SourceNetwork.of(network) if isinstance(network, LoadedNetwork) else network
        source = replace(source, network=supported(source.network))
    repository.require_writable(settings.to / settings.name)
    cast = replace(source, network=in_float32(source.network))
    return Source(source=cast, given=source.network, settings=settings)


def _from_module(
    network: nn.Module, settings: ExportSettings, preprocessing: Preprocessing | None, labels: Sequence[str]
) -> SourceNetwork:
    if not settings.inputs:
        return SourceNetwork.of(loaded_module(network, preprocessing, labels))
    if preprocessing is not None:
        raise SettingsError("preprocessing is for images, but the settings have inputs: pass one of them.")
    return module_with_inputs(network, labels)


def _loaded(source: Path | str) -> LoadedNetwork:
    try:
        return load_network(source)
    except ZooError as error:
        raise SourceError(str(error)) from error
