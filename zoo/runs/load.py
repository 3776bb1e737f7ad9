"""Load a network with its weights and everything known about them, from a run's folder or by name."""

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
from zoo.settings import BadImages, Transfer
from zoo.storage.atomic_io import folder_or_backup
from zoo.transfer.heads import attach_head
from zoo.transfer.pretrained import origin_of


@dataclass(frozen=True)
class WeightsSource:
    """Where weights come from.

    Attributes:
        kind: "random" (from `seed`), "trained" by a run, "pretrained" from a hub or file, or "given" inside a network
            object of unknown origin.
        seed: Seed of the random weights, or of the run.
        dataset: What a run trained on, without paths of this machine; else empty.
        licence: Of pretrained weights, or of those that a run started from. Empty: unknown or none.
        url: Of the same weights as `licence`.
        metrics: Of a run's checkpoint; else empty.
    """

    kind: Literal["random", "trained", "pretrained", "given"]
    seed: int
    dataset: str = ""
    licence: str = ""
    url: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class LoadedNetwork:
    """A network in eval mode, float32, on the CPU.

    Attributes:
        network: The network; its logits are for a softmax, or with the task "multi-label" for a sigmoid each.
        name: Name of the run's folder, or of the network.
        architecture: Name of the network, or of its backbone.
        labels: Names of the classes by index. Empty: unknown.
        preprocessing: What the network expects of an image.
        weights: Where its weights came from.
        fold: Number of the fold that its run held out, from 1, and number of folds. None: no cross-validation.
        task: Whether an image has one label or several.
        data: A run's --data, paths of this machine included; else empty.
        bad_images: Whether that run failed on unreadable image files or skipped them.
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
    bad_images: BadImages = "fail"


def load_network(
    source: str | Path, *, seed: int = 0, pretrained: bool = False, pretrained_file: Path | None = None
) -> LoadedNetwork:
    """Load a run's best checkpoint, or the checkpoint RUN/best or RUN/last, or build a network by name.

    A network by name has random weights drawn with `seed`, without a constantly zero branch; with `pretrained` or
    `pretrained_file` it has those of its hub or of the file. It has labels if its classes are known to be ImageNet's.

    Raises:
        CheckpointError: `source` is a missing folder or an incomplete run; for networks by name see `create_model`.
        SettingsError: `source` is a run, which has its own weights, and pretrained ones are requested.
        UnknownNetworkError: `source` is neither a folder nor the name of a network.
    """
    if str(source).startswith(SOURCES):
        return _build_by_name(str(source), seed, pretrained=True, file=pretrained_file)
    folder = folder_or_backup(Path(source))
    if folder.is_dir():
        if pretrained or pretrained_file is not None:
            raise SettingsError(
                f"{source} is a run, which has its own weights; pretrained weights require a network by name"
            )
        return load_run(folder)
    if isinstance(source, Path) or os.sep in source or folder.exists():
        raise CheckpointError(f"there is no folder {source}; {LAYOUT}")
    return _build_by_name(source, seed, pretrained, pretrained_file)


def load_run(folder: Path) -> LoadedNetwork:
    """Load the best checkpoint of a run, or the checkpoint `folder` itself.

    Raises:
        CheckpointError: It is missing, incomplete, or its weights belong to another network.
    """
    run, checkpoint_folder = run_and_checkpoint_folders(folder)
    settings, checkpoint = read_settings(run), read_checkpoint(checkpoint_folder)
    network = _build_for(checkpoint, settings.transfer)
    checkpoint.load_into(network)
    checkpoint.preprocessing.attach_to(network)
    origin = read_origin(run)
    return LoadedNetwork(
        network=network.eval(),
        name=run.resolve().name,
        architecture=checkpoint.architecture,
        labels=checkpoint.labels,
        preprocessing=checkpoint.preprocessing,
        weights=WeightsSource(
            "trained", settings.seed, redacted_name(settings.data), origin.licence, origin.url, checkpoint.metrics
        ),
        fold=(settings.fold, settings.folds) if settings.folds else None,
        task=checkpoint.task,
        data=settings.data,
        bad_images=settings.bad_images,
    )


def run_and_checkpoint_folders(folder: Path) -> tuple[Path, Path]:
    """Return the folders of the run and of its checkpoint: `folder` itself, or the best one if `folder` is a run."""
    is_checkpoint = (folder / "model.safetensors").exists()
    return (folder.parent, folder) if is_checkpoint else (folder, folder / "best")


def _build_for(checkpoint: Checkpoint, transfer: Transfer | None) -> nn.Module:
    """Build the checkpoint's network, without its weights; a backbone with a head if the run tuned one."""
    channels, classes = checkpoint.preprocessing.channels, len(checkpoint.labels)
    size = checkpoint.preprocessing.input_size[1:]
    if transfer is None:
        return create_model(checkpoint.architecture, num_classes=classes, in_chans=channels, img_size=size)
    backbone = create_model(checkpoint.architecture, in_chans=channels, img_size=size)
    return attach_head(backbone, transfer.head, classes, cut=transfer.cut_after)


def _build_by_name(name: str, seed: int, pretrained: bool, file: Path | None) -> LoadedNetwork:
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
    short_name = Path(name).name if name.startswith(SOURCES) else name
    return LoadedNetwork(network.eval(), short_name, architecture, labels, Preprocessing.from_network(network), weights)


def _imagenet_labels(network: nn.Module) -> tuple[str, ...]:
    """Return ImageNet's class names if timm knows an ImageNet variant with as many classes, else an empty tuple."""
    subset = infer_imagenet_subset(network)
    if subset is None:
        return ()
    names = ImageNetInfo(subset)
    return tuple(names.index_to_description(index) for index in range(names.num_classes()))
