"""Any net with its weights and all that is known of them: from a run's folder, or fresh from a name."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from zoo.catalog import create_model
from zoo.checkpoint import LAYOUT, read_checkpoint, read_settings
from zoo.errors import CheckpointError, SettingsError
from zoo.files import standing_folder
from zoo.interface import classes_of, config_of
from zoo.preprocessing import Preprocessing


@dataclass(frozen=True)
class WeightsSource:
    """Where weights come from; `dataset`, `licence` and `url` are empty where there is nothing to say."""

    kind: Literal["random", "trained", "pretrained"]
    seed: int
    dataset: str = ""
    licence: str = ""
    url: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class LoadedNet:
    """A net in eval mode, float32, on the CPU; `name` is the run's folder or the net's name."""

    net: nn.Module
    name: str
    architecture: str
    labels: tuple[str, ...]
    preprocessing: Preprocessing
    weights: WeightsSource


def load_net(source: str | Path, *, seed: int = 0) -> LoadedNet:
    """Load a run (its best checkpoint, or RUN/best, RUN/last as named), or build a net by name with random weights.

    `seed` draws the random weights; a run has its own.

    Raises:
        CheckpointError: `source` looks like a folder, but is none, or holds no whole run.
        UnknownNetError: `source` is neither a folder nor a net.
    """
    folder = standing_folder(Path(source))
    if folder.is_dir():
        return load_run(folder)
    if isinstance(source, Path) or os.sep in source or folder.exists():
        raise CheckpointError(f"there is no folder {source}; {LAYOUT}")
    return _random_net(source, seed)


def load_run(folder: Path) -> LoadedNet:
    """Load the best checkpoint of a run, or the one checkpoint that `folder` is.

    Raises:
        CheckpointError: it is missing, incomplete, or its weights are not those of its net.
    """
    is_checkpoint = (folder / "model.safetensors").exists()
    run, checkpoint_folder = (folder.parent, folder) if is_checkpoint else (folder, folder / "best")
    settings, checkpoint = read_settings(run), read_checkpoint(checkpoint_folder)
    preprocessing = checkpoint.preprocessing
    net = create_model(checkpoint.architecture, num_classes=len(checkpoint.labels), in_chans=preprocessing.channels)
    checkpoint.load_into(net)
    preprocessing.attach_to(net)
    source = WeightsSource("trained", seed=settings.seed, dataset=settings.data, metrics=checkpoint.metrics)
    return LoadedNet(net.eval(), run.resolve().name, checkpoint.architecture, checkpoint.labels, preprocessing, source)


def _random_net(name: str, seed: int) -> LoadedNet:
    if not 0 <= seed < 2**32:
        raise SettingsError(f"seed must be at least 0 and less than 2**32; got {seed}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = create_model(name)
    labels = tuple(str(index) for index in range(classes_of(net)))
    architecture = config_of(net)["architecture"]
    return LoadedNet(net.eval(), name, architecture, labels, Preprocessing.from_net(net), WeightsSource("random", seed))
