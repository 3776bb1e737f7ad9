"""Nets in PyTorch: build them, train them, measure them, load them.

Names are imported when first used, so that the command line can show its help without waiting for torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zoo.catalog import CATALOG, create_model
    from zoo.data import find_data, load_dataset
    from zoo.errors import ZooError
    from zoo.heads import attach_head
    from zoo.load import LoadedNet, WeightsSource, load_net
    from zoo.preprocessing import Preprocessing
    from zoo.settings import TrainSettings

_HOME = {
    "CATALOG": "zoo.catalog",
    "LoadedNet": "zoo.load",
    "Preprocessing": "zoo.preprocessing",
    "TrainSettings": "zoo.settings",
    "WeightsSource": "zoo.load",
    "ZooError": "zoo.errors",
    "attach_head": "zoo.heads",
    "create_model": "zoo.catalog",
    "find_data": "zoo.data",
    "load_dataset": "zoo.data",
    "load_net": "zoo.load",
}

__all__ = [
    "CATALOG",
    "LoadedNet",
    "Preprocessing",
    "TrainSettings",
    "WeightsSource",
    "ZooError",
    "attach_head",
    "create_model",
    "find_data",
    "load_dataset",
    "load_net",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'zoo' has no attribute '{name}'")
    return getattr(importlib.import_module(_HOME[name]), name)
