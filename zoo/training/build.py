"""The network that a run trains, for the data that it trains on."""

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from zoo.catalog import CATALOG, create_model
from zoo.data.kfold import fold_of
from zoo.data.registry import Dataset, DataSource
from zoo.data.splits import MemorySplit
from zoo.errors import SettingsError
from zoo.evaluation.evaluate import evaluate
from zoo.networks.preprocessing import Preprocessing
from zoo.networks.size_check import check_size
from zoo.runs.load import WeightsSource, load_run
from zoo.settings import TrainSettings, Transfer
from zoo.storage.atomic_io import standing_folder
from zoo.transfer.heads import HeadedNet, attach_head
from zoo.transfer.pretrained import origin_of

Size = tuple[int, int, int]
MISFITS = (RuntimeError, AssertionError, ValueError, ArithmeticError)


def build_net(settings: TrainSettings, source: DataSource) -> tuple[nn.Module, Dataset, WeightsSource]:
    """The network with fresh weights, or a pretrained backbone under a fresh head; its data; where its weights begin.

    Raises:
        SettingsError: the network does not take the data's images.
        CheckpointError: the pretrained weights cannot be had.
    """
    size = source.input_size or settings.input_size
    if settings.input_size not in (None, size):
        raise SettingsError(f"the images of {source.name} have the size {size}; input_size is {settings.input_size}")
    network, origin = _net(settings, size, classes=len(source.labels))
    data = source.for_net(Preprocessing.from_net(network))
    if settings.folds:
        data = fold_of(data, settings.fold, settings.folds)
    data.preprocessing.attach_to(network)
    _check_takes(network, data, settings)
    return network, data, origin


def _net(settings: TrainSettings, size: Size | None, classes: int) -> tuple[nn.Module, WeightsSource]:
    if settings.transfer is not None:
        backbone, origin = _backbone(settings.network, settings.transfer, size)
        with _misfits(settings.network, Preprocessing.from_net(backbone).input_size):
            transfer = settings.transfer
            headed = attach_head(backbone, transfer.head, classes, settings.drop_rate, cut=transfer.cut_after)
            return headed, origin
    network = create_model(
        settings.network,
        num_classes=classes,
        in_chans=size[0] if size else None,
        img_size=size[1:] if size else None,
        drop_rate=settings.drop_rate,
    )
    return network, WeightsSource("random", settings.seed)


def _backbone(name: str, transfer: Transfer, size: Size | None) -> tuple[nn.Module, WeightsSource]:
    folder = standing_folder(Path(name))
    if folder.is_dir():
        if transfer.pretrained_file:
            raise SettingsError(f"{name} is a run, which has its own weights; pretrained_file is for a network by name")
        return _backbone_of_run(folder, size, transfer.cut_after)
    file = Path(transfer.pretrained_file) if transfer.pretrained_file else None
    channels, img_size = (size[0], size[1:]) if size else (None, None)
    network = create_model(name, in_chans=channels, img_size=img_size, pretrained=file is None, pretrained_file=file)
    origin = origin_of(network, file)
    return network, WeightsSource("pretrained", seed=0, licence=origin.licence, url=origin.url)


def _backbone_of_run(folder: Path, size: Size | None, cut_after: str | None) -> tuple[nn.Module, WeightsSource]:
    loaded = load_run(folder)
    own = loaded.preprocessing
    if size and size[0] != own.channels:
        raise SettingsError(f"the network of {folder} takes {own.channels} channels; the images have {size[0]}")
    network = loaded.network.backbone if isinstance(loaded.network, HeadedNet) else loaded.network
    was_cut = loaded.network.cut_after if isinstance(loaded.network, HeadedNet) else None
    if was_cut and was_cut != cut_after:
        raise SettingsError(
            f"the network of {folder} ends at '{was_cut}': cut_after must be '{was_cut}'; got {cut_after}"
        )
    taken = size or own.input_size
    replace(own, input_size=taken).attach_to(network)
    if loaded.architecture in CATALOG:
        with _misfits(str(folder), taken):
            check_size(network, taken)
    return network, loaded.weights


@contextlib.contextmanager
def _misfits(name: str, size: Size) -> Iterator[None]:
    """Say of what fails inside that the network does not take the size. Raises: SettingsError."""
    try:
        yield
    except SettingsError:
        raise
    except MISFITS as error:
        came = "x".join(map(str, size))
        raise SettingsError(f"the network '{name}' does not take images of {came}: {error}") from error


def _check_takes(network: nn.Module, data: Dataset, settings: TrainSettings) -> None:
    """Let one image through before anything is written: many networks are made for larger images only."""
    try:
        image = next(data.val.batches([torch.tensor([0])]))
        evaluate(network, MemorySplit(image, torch.tensor([0])), data.preprocessing)
    except MISFITS as error:
        size = "x".join(str(length) for length in data.preprocessing.input_size)
        raise SettingsError(
            f"the network '{settings.network}' does not take the {size} images of {data.name}: {error}"
        ) from error
