"""PyTorch networks: building, training, evaluating and loading them.

Public names are imported on first use, so that the command line's help does not wait for torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zoo.catalog import CATALOG, create_model
    from zoo.data.registry import find_data, load_dataset
    from zoo.errors import ZooError
    from zoo.networks.preprocessing import Preprocessing
    from zoo.runs.load import LoadedNetwork, WeightsSource, load_network
    from zoo.settings import TrainSettings
    from zoo.transfer.heads import attach_head

_MODULES = {
    "CATALOG": "zoo.catalog",
    "LoadedNetwork": "zoo.runs.load",
    "Preprocessing": "zoo.networks.preprocessing",
    "TrainSettings": "zoo.settings",
    "WeightsSource": "zoo.runs.load",
    "ZooError": "zoo.errors",
    "attach_head": "zoo.transfer.heads",
    "create_model": "zoo.catalog",
    "find_data": "zoo.data.registry",
    "load_dataset": "zoo.data.registry",
    "load_network": "zoo.runs.load",
}

__all__ = [
    "CATALOG",
    "LoadedNetwork",
    "Preprocessing",
    "TrainSettings",
    "WeightsSource",
    "ZooError",
    "attach_head",
    "create_model",
    "find_data",
    "load_dataset",
    "load_network",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'zoo' has no attribute '{name}'")
    return getattr(importlib.import_module(_MODULES[name]), name)
