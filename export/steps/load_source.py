"""Step 1: from the caller's network to a network with preprocessing and labels."""

from collections.abc import Sequence
from pathlib import Path

from torch import nn

from export.artifact import repository
from export.errors import SettingsError, SourceError
from export.settings import ExportSettings
from export.source.module import loaded_module
from export.steps.stages import Source
from zoo import LoadedNetwork, ZooError, load_network
from zoo.networks.preprocessing import Preprocessing


def load_source(
    network: LoadedNetwork | nn.Module | Path | str,
    settings: ExportSettings,
    preprocessing: Preprocessing | None,
    labels: Sequence[str],
) -> Source:
    """Combine the network with its preprocessing and labels.

    Adds: `source` and `settings`.
    Ensures: the network is loaded, without wrappers, and can be copied; the repository is writable.
    Raises: RepositoryError, SettingsError, SourceError, UnsupportedNetworkError.
    """
    if isinstance(network, str | Path):
        network = _loaded(network)
    if isinstance(network, LoadedNetwork):
        if preprocessing is not None or labels:
            raise SettingsError(
                "a loaded network has its own preprocessing and labels: change them with dataclasses.replace."
            )
        source = network
    else:
        source = loaded_module(network, preprocessing, labels)
    repository.require_writable(settings.to / settings.name)
    return Source(source=source, settings=settings)


def _loaded(source: Path | str) -> LoadedNetwork:
    try:
        return load_network(source)
    except ZooError as error:
        raise SourceError(str(error)) from error
