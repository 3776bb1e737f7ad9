"""The net that a run trains, for the data that it trains on."""

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
    """The net with fresh weights, or a pretrained backbone under a fresh head; its data; where its weights begin.

    Raises:
        SettingsError: the net does not take the data's pictures.
        CheckpointError: the pretrained weights cannot be had.
    """
    size = source.input_size or settings.input_size
    if settings.input_size not in (None, size):
        raise SettingsError(f"the pictures of {source.name} have the size {size}; input_size is {settings.input_size}")
    net, origin = _net(settings, size, classes=len(source.labels))
    data = source.for_net(Preprocessing.from_net(net))
    if settings.folds:
        data = fold_of(data, settings.fold, settings.folds)
    data.preprocessing.attach_to(net)
    _check_takes(net, data, settings)
    return net, data, origin


def _net(settings: TrainSettings, size: Size | None, classes: int) -> tuple[nn.Module, WeightsSource]:
    if settings.transfer is not None:
        backbone, origin = _backbone(settings.net, settings.transfer, size)
        with _misfits(settings.net, Preprocessing.from_net(backbone).input_size):
            transfer = settings.transfer
            headed = attach_head(backbone, transfer.head, classes, settings.drop_rate, cut=transfer.cut_after)
            return headed, origin
    net = create_model(
        settings.net,
        num_classes=classes,
        in_chans=size[0] if size else None,
        img_size=size[1:] if size else None,
        drop_rate=settings.drop_rate,
    )
    return net, WeightsSource("random", settings.seed)


def _backbone(name: str, transfer: Transfer, size: Size | None) -> tuple[nn.Module, WeightsSource]:
    folder = standing_folder(Path(name))
    if folder.is_dir():
        if transfer.pretrained_file:
            raise SettingsError(f"{name} is a run, which has its own weights; pretrained_file is for a net by name")
        return _backbone_of_run(folder, size, transfer.cut_after)
    file = Path(transfer.pretrained_file) if transfer.pretrained_file else None
    channels, img_size = (size[0], size[1:]) if size else (None, None)
    net = create_model(name, in_chans=channels, img_size=img_size, pretrained=file is None, pretrained_file=file)
    origin = origin_of(net, file)
    return net, WeightsSource("pretrained", seed=0, licence=origin.licence, url=origin.url)


def _backbone_of_run(folder: Path, size: Size | None, cut_after: str | None) -> tuple[nn.Module, WeightsSource]:
    loaded = load_run(folder)
    own = loaded.preprocessing
    if size and size[0] != own.channels:
        raise SettingsError(f"the net of {folder} takes {own.channels} channels; the pictures have {size[0]}")
    net = loaded.net.backbone if isinstance(loaded.net, HeadedNet) else loaded.net
    was_cut = loaded.net.cut_after if isinstance(loaded.net, HeadedNet) else None
    if was_cut and was_cut != cut_after:
        raise SettingsError(f"the net of {folder} ends at '{was_cut}': cut_after must be '{was_cut}'; got {cut_after}")
    taken = size or own.input_size
    replace(own, input_size=taken).attach_to(net)
    if loaded.architecture in CATALOG:
        with _misfits(str(folder), taken):
            check_size(net, taken)
    return net, loaded.weights


@contextlib.contextmanager
def _misfits(name: str, size: Size) -> Iterator[None]:
    """Say of what fails inside that the net does not take the size. Raises: SettingsError."""
    try:
        yield
    except SettingsError:
        raise
    except MISFITS as error:
        came = "x".join(map(str, size))
        raise SettingsError(f"the net '{name}' does not take images of {came}: {error}") from error


def _check_takes(net: nn.Module, data: Dataset, settings: TrainSettings) -> None:
    """Let one image through before anything is written: many nets are made for larger images only."""
    try:
        picture = next(data.val.batches([torch.tensor([0])]))
        evaluate(net, MemorySplit(picture, torch.tensor([0])), data.preprocessing)
    except MISFITS as error:
        size = "x".join(str(length) for length in data.preprocessing.input_size)
        raise SettingsError(
            f"the net '{settings.net}' does not take the {size} images of {data.name}: {error}"
        ) from error
