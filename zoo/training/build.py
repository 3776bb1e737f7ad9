"""Build the network of a run for the data that it trains on."""

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from zoo.catalog import CATALOG, create_model
from zoo.data.dataset import Dataset, DataSource
from zoo.data.kfold import fold_of
from zoo.data.splits import MemorySplit
from zoo.errors import SettingsError
from zoo.evaluation.evaluate import evaluate
from zoo.networks.preprocessing import Preprocessing
from zoo.networks.size_check import check_size
from zoo.runs.load import WeightsSource, load_run
from zoo.settings import TrainSettings, Transfer
from zoo.storage.atomic_io import folder_or_backup
from zoo.transfer.heads import HeadedNetwork, attach_head
from zoo.transfer.pretrained import origin_of

Size = tuple[int, int, int]
SIZE_ERRORS = (RuntimeError, AssertionError, ValueError, ArithmeticError)  # raised by networks given an unsuitable size


def build_network(settings: TrainSettings, source: DataSource) -> tuple[nn.Module, Dataset, WeightsSource]:
    """Build the network, with random weights or as a pretrained backbone with a new head.

    Returns the network, the dataset as the network's preprocessing prepares it (with `settings.folds`, one fold of
    it), and where the initial weights came from. One image has passed through the network.

    Raises:
        SettingsError: The network does not accept the dataset's images.
        CheckpointError: The pretrained weights are missing or belong to another network.
    """
    size = source.input_size or settings.input_size
    if settings.input_size not in (None, size):
        raise SettingsError(f"the images of {source.name} have the size {size}; input_size is {settings.input_size}")
    network, initial_weights = _create_network(settings, size, classes=len(source.labels))
    dataset = source.for_network(Preprocessing.from_network(network))
    if settings.folds:
        dataset = fold_of(dataset, settings.fold, settings.folds)
    dataset.preprocessing.attach_to(network)
    _check_accepts(network, dataset, settings)
    return network, dataset, initial_weights


def _create_network(settings: TrainSettings, size: Size | None, classes: int) -> tuple[nn.Module, WeightsSource]:
    if settings.transfer is not None:
        return _tuned_network(settings, settings.transfer, size, classes)
    network = create_model(
        settings.network,
        num_classes=classes,
        in_chans=size[0] if size else None,
        img_size=size[1:] if size else None,
        drop_rate=settings.drop_rate,
    )
    return network, WeightsSource("random", settings.seed)


def _tuned_network(
    settings: TrainSettings, transfer: Transfer, size: Size | None, classes: int
) -> tuple[nn.Module, WeightsSource]:
    backbone, initial_weights = _load_backbone(settings.network, transfer, size)
    with _explain_size_errors(settings.network, Preprocessing.from_network(backbone).input_size):
        network = attach_head(backbone, transfer.head, classes, settings.drop_rate, cut=transfer.cut_after)
    return network, initial_weights


def _load_backbone(name: str, transfer: Transfer, size: Size | None) -> tuple[nn.Module, WeightsSource]:
    folder = folder_or_backup(Path(name))
    if folder.is_dir():
        if transfer.pretrained_file:
            raise SettingsError(
                f"{name} is a run, which has its own weights; pretrained_file requires a network by name"
            )
        return _load_backbone_of_run(folder, size, transfer.cut_after)
    file = Path(transfer.pretrained_file) if transfer.pretrained_file else None
    channels, img_size = (size[0], size[1:]) if size else (None, None)
    network = create_model(name, in_chans=channels, img_size=img_size, pretrained=file is None, pretrained_file=file)
    origin = origin_of(network, file)
    return network, WeightsSource("pretrained", seed=0, licence=origin.licence, url=origin.url)


def _load_backbone_of_run(folder: Path, size: Size | None, cut_after: str | None) -> tuple[nn.Module, WeightsSource]:
    loaded = load_run(folder)
    preprocessing = loaded.preprocessing
    if size and size[0] != preprocessing.channels:
        raise SettingsError(
            f"the network of {folder} expects {preprocessing.channels} channels; the images have {size[0]}"
        )
    network = loaded.network
    if isinstance(network, HeadedNetwork):
        if network.cut_after and network.cut_after != cut_after:
            raise SettingsError(
                f"the network of {folder} ends at '{network.cut_after}': "
                f"cut_after must be '{network.cut_after}'; got {cut_after}"
            )
        network = network.backbone
    input_size = size or preprocessing.input_size
    replace(preprocessing, input_size=input_size).attach_to(network)
    if loaded.architecture in CATALOG:
        with _explain_size_errors(str(folder), input_size):
            check_size(network, input_size)
    return network, loaded.weights


def _check_accepts(network: nn.Module, dataset: Dataset, settings: TrainSettings) -> None:
    """Evaluate one image before anything is written: many networks are made for larger images only."""
    try:
        image = next(dataset.val.batches([torch.tensor([0])]))
        evaluate(network, MemorySplit(image, torch.tensor([0])), dataset.preprocessing)
    except SIZE_ERRORS as error:
        size = "x".join(map(str, dataset.preprocessing.input_size))
        raise SettingsError(
            f"the network '{settings.network}' does not accept the {size} images of {dataset.name}: {error}"
        ) from error


@contextlib.contextmanager
def _explain_size_errors(network: str, size: Size) -> Iterator[None]:
    """Translate errors from inside a network into one that names the network and the size.

    Raises:
        SettingsError: The block raised one of SIZE_ERRORS.
    """
    try:
        yield
    except SettingsError:
        raise
    except SIZE_ERRORS as error:
        size_text = "x".join(map(str, size))
        raise SettingsError(f"the network '{network}' does not accept images of {size_text}: {error}") from error
