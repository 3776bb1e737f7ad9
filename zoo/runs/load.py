"""Any network with its weights and all that is known of them: from a run's folder, or fresh from a name."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from timm.data import ImageNetInfo, infer_imagenet_subset
from torch import nn

from zoo.catalog import SOURCES, create_model
from zoo.data.registry import redacted_name
from zoo.data.targets import Task
from zoo.errors import CheckpointError, SettingsError
from zoo.networks.preprocessing import Preprocessing
from zoo.networks.random_init import randomize_constant_scales
from zoo.networks.timm_config import config_of
from zoo.runs.checkpoint import LAYOUT, Checkpoint, read_checkpoint, read_origin, read_settings
from zoo.settings import Transfer
from zoo.storage.atomic_io import standing_folder
from zoo.transfer.heads import attach_head
from zoo.transfer.pretrained import origin_of


@dataclass(frozen=True)
class WeightsSource:
    """Where weights come from; `dataset`, `licence` and `url` are empty where there is nothing to say.

    Of `given` ones, inside a network that somebody else made, nothing is known.
    Licence and URL of trained weights are those of the pretrained weights that they began as.
    """

    kind: Literal["random", "trained", "pretrained", "given"]
    seed: int
    dataset: str = ""
    licence: str = ""
    url: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class LoadedNetwork:
    """A network in eval mode, float32, on the CPU; `name` is the run's folder or the network's name.

    `fold` is the number of the fold that its run held out, and how many there are; None where there are none.
    Its logits are for a softmax, or with the task "multi-label" each for a sigmoid.
    `data` is the data set of a run as it was given to --data, paths of this machine included; empty for other networks.
    """

    network: nn.Module
    name: str
    architecture: str
    labels: tuple[str, ...]
    preprocessing: Preprocessing
    weights: WeightsSource
    fold: tuple[int, int] | None = None
    task: Task = "single-label"
    data: str = ""


def load_network(
    source: str | Path, *, seed: int = 0, pretrained: bool = False, pretrained_file: Path | None = None
) -> LoadedNetwork:
    """Load a run (its best checkpoint, or RUN/best, RUN/last as named), or build a network by name.

    A network by name has random weights, drawn by `seed` and no branch of them zero, or `pretrained` ones: its own, or
    those of `pretrained_file`. Its classes have labels where they are known to be ImageNet's.

    Raises:
        CheckpointError: `source` looks like a folder, but is none, or holds no whole run; or see `create_model`.
        SettingsError: pretrained weights are asked for a run, which has its own.
        UnknownNetworkError: `source` is neither a folder nor a network.
    """
    if str(source).startswith(SOURCES):
        return _net_by_name(str(source), seed, pretrained=True, file=pretrained_file)
    folder = standing_folder(Path(source))
    if folder.is_dir():
        if pretrained or pretrained_file is not None:
            raise SettingsError(
                f"{source} is a run, which has its own weights; pretrained ones are for a network by name"
            )
        return load_run(folder)
    if isinstance(source, Path) or os.sep in source or folder.exists():
        raise CheckpointError(f"there is no folder {source}; {LAYOUT}")
    return _net_by_name(source, seed, pretrained, pretrained_file)


def load_run(folder: Path) -> LoadedNetwork:
    """Load the best checkpoint of a run, or the one checkpoint that `folder` is.

    Raises:
        CheckpointError: it is missing, incomplete, or its weights are not those of its network.
    """
    run, checkpoint_folder = places_of(folder)
    settings, checkpoint = read_settings(run), read_checkpoint(checkpoint_folder)
    preprocessing = checkpoint.preprocessing
    network = _rebuild(checkpoint, settings.transfer)
    checkpoint.load_into(network)
    preprocessing.attach_to(network)
    origin = read_origin(run)
    source = WeightsSource(
        "trained", settings.seed, redacted_name(settings.data), origin.licence, origin.url, checkpoint.metrics
    )
    fold = (settings.fold, settings.folds) if settings.folds else None
    name, architecture, labels = run.resolve().name, checkpoint.architecture, checkpoint.labels
    return LoadedNetwork(
        network.eval(), name, architecture, labels, preprocessing, source, fold, checkpoint.task, settings.data
    )


def places_of(folder: Path) -> tuple[Path, Path]:
    """The run's folder and the checkpoint's: the best one's, or the one checkpoint that `folder` is."""
    is_checkpoint = (folder / "model.safetensors").exists()
    return (folder.parent, folder) if is_checkpoint else (folder, folder / "best")


def _rebuild(checkpoint: Checkpoint, transfer: Transfer | None) -> nn.Module:
    """The checkpoint's network without its weights: a headed backbone where the run tuned one."""
    channels, classes = checkpoint.preprocessing.channels, len(checkpoint.labels)
    size = checkpoint.preprocessing.input_size[1:]
    if transfer is None:
        return create_model(checkpoint.architecture, num_classes=classes, in_chans=channels, img_size=size)
    backbone = create_model(checkpoint.architecture, in_chans=channels, img_size=size)
    return attach_head(backbone, transfer.head, classes, cut=transfer.cut_after)


def _net_by_name(name: str, seed: int, pretrained: bool, file: Path | None) -> LoadedNetwork:
    if not 0 <= seed < 2**32:
        raise SettingsError(f"seed must be at least 0 and less than 2**32; got {seed}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = create_model(name, pretrained=pretrained, pretrained_file=file)
        if not (pretrained or file):
            randomize_constant_scales(network)
    weights = WeightsSource("random", seed)
    if pretrained or file is not None:
        origin = origin_of(network, file)
        weights = WeightsSource("pretrained", seed, licence=origin.licence, url=origin.url)
    labels = _imagenet_labels(network) if pretrained and file is None else ()
    architecture = config_of(network)["architecture"]
    plain_name = Path(name).name if name.startswith(SOURCES) else name
    return LoadedNetwork(network.eval(), plain_name, architecture, labels, Preprocessing.from_net(network), weights)


def _imagenet_labels(network: nn.Module) -> tuple[str, ...]:
    """ImageNet's names of the classes, where timm knows an ImageNet of so many classes."""
    subset = infer_imagenet_subset(network)
    if subset is None:
        return ()
    names = ImageNetInfo(subset)
    return tuple(names.index_to_description(index) for index in range(names.num_classes()))
