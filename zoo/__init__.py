"""Networks in PyTorch: build them, train them, measure them, load them.

Names are imported when first used, so that the command line can show its help without waiting for torch.
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

_HOME = {
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
    if name not in _HOME:
        raise AttributeError(f"module 'zoo' has no attribute '{name}'")
    return getattr(importlib.import_module(_HOME[name]), name)
