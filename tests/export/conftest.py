"""A network without zero-initialised branches, and its export."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from export import Exported, ExportSettings, export_model
from zoo import LoadedNetwork, load_network


def randomize_batch_norms(network: nn.Module) -> nn.Module:
    """Draw new BatchNorm parameters and statistics, so that no branch of the network is zero."""
    generator = torch.Generator().manual_seed(1)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor, low in ((module.weight, 0.5), (module.bias, -0.5), (module.running_mean, -0.5)):
                tensor.data.uniform_(low, low + 1, generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)
    return network


@pytest.fixture(scope="session")
def convnet4() -> LoadedNetwork:
    """Return convnet4 of the catalog, with random weights and ten labels."""
    loaded = load_network("convnet4", seed=3)
    randomize_batch_norms(loaded.network)
    return replace(loaded, labels=tuple(map(str, range(10))))


@pytest.fixture(scope="session")
def exported(convnet4: LoadedNetwork, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """Return an export of convnet4."""
    to: Path = tmp_path_factory.mktemp("repository") / "models"
    return export_model(convnet4, ExportSettings(to=to, name="tiny"))
