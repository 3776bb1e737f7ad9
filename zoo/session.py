"""What one run works with: the net, its data, what changes its weights, and where."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from timm.data import Mixup
from timm.scheduler.scheduler import Scheduler
from timm.utils import ModelEmaV3
from torch import nn

from zoo.augment import Augmentation
from zoo.build import build_net
from zoo.data import NO_AUGMENTATION, Dataset, find_data
from zoo.errors import DeviceError, SettingsError
from zoo.load import WeightsSource
from zoo.optimise import make_optimizer, make_scheduler
from zoo.preprocessing import InputRule
from zoo.probe import features_of
from zoo.settings import Device, TrainSettings
from zoo.targets import class_weights, make_loss


@dataclass(frozen=True)
class Session:
    """What one run works with; `net` is what is trained by `rule`: the `whole`, or its head on stored features.

    `data` are the `pictures`, or their features.
    """

    settings: TrainSettings
    data: Dataset
    pictures: Dataset
    data_key: str
    origin: WeightsSource
    augmentation: Augmentation
    mixer: Mixup | None
    accelerator: Accelerator
    whole: Any
    average: ModelEmaV3 | None
    net: nn.Module
    rule: InputRule
    on_features: bool
    optimizer: torch.optim.Optimizer
    scheduler: Scheduler
    loss: nn.Module

    @property
    def result(self) -> Any:
        """The net that is measured and kept: the average where there is one."""
        return self.whole if self.average is None else self.average.module

    @property
    def measured(self) -> nn.Module:
        """What of the result takes the data: all of it, or its head where the data are features."""
        head: nn.Module = self.result.head if self.on_features else self.result
        return head

    @property
    def state(self) -> nn.Module:
        """All tensors that change: what learns, and its average."""
        learns: nn.Module = self.whole.head if self.on_features else self.whole
        return learns if self.average is None else nn.ModuleList([learns, self.measured])


def batches_of(settings: TrainSettings, data: Dataset) -> int:
    return max(1, len(data.train) // settings.batch_size)


def make_accelerator(device: Device) -> Accelerator:
    there = {"auto": True, "cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not there[device]:
        known = ", ".join(name for name, is_there in there.items() if is_there)
        raise DeviceError(f"there is no device '{device}' on this machine; choose one of {known}")
    accelerator = Accelerator(cpu=device == "cpu")
    if device not in ("auto", accelerator.device.type):
        raise DeviceError(f"the device should be '{device}', but accelerate chose '{accelerator.device.type}'")
    return accelerator


def prepare(settings: TrainSettings, accelerator: Accelerator) -> Session:
    source = find_data(settings.data, bad_images=settings.bad_images, workers=settings.workers)
    torch.manual_seed(settings.seed)
    net, data, origin = build_net(settings, source)
    optimizer = make_optimizer(net, settings)
    scheduler = make_scheduler(optimizer, settings.lr, batches_of(settings, data) * settings.epochs)
    net, optimizer = accelerator.prepare(net, optimizer)
    loss = _loss(settings, data).to(accelerator.device)
    augmentation = _augmentation(settings, data)
    whole = accelerator.unwrap_model(net)
    return Session(
        settings=settings,
        data=data,
        pictures=data,
        data_key=data.train.key(),
        origin=origin,
        augmentation=augmentation,
        mixer=_mixer(settings, data),
        accelerator=accelerator,
        whole=whole,
        average=ModelEmaV3(whole, decay=settings.ema_decay) if settings.ema_decay else None,
        net=net,
        rule=data.preprocessing,
        on_features=False,
        optimizer=optimizer,
        scheduler=scheduler,
        loss=loss,
    )


def on_features(session: Session, cache: Path) -> Session:
    """The same session for the head alone, on features in place of pictures."""
    data, rule = features_of(session.whole, session.data, cache)
    return replace(
        session, data=data, rule=rule, on_features=True, net=session.whole.head, augmentation=NO_AUGMENTATION
    )


def _loss(settings: TrainSettings, data: Dataset) -> nn.Module:
    weights = class_weights(data.train.targets, len(data.labels)) if settings.imbalance == "weights" else None
    return make_loss(data.task, settings.label_smoothing, weights)


def _augmentation(settings: TrainSettings, data: Dataset) -> Augmentation:
    suits = data.augmentation
    return Augmentation(
        flip=suits.flip if settings.flip is None else settings.flip,
        min_crop=suits.min_crop if settings.min_crop is None else settings.min_crop,
        rand_augment=settings.rand_augment,
    )


def _mixer(settings: TrainSettings, data: Dataset) -> Mixup | None:
    if not settings.mixes:
        return None
    if len(data.train) < settings.batch_size and len(data.train) % 2:
        raise SettingsError(f"{data.name} trains on {len(data.train)} pictures at once, which cannot be mixed in pairs")
    multi_label = data.task == "multi-label"
    return Mixup(
        settings.mixup, settings.cutmix, label_smoothing=0.0, num_classes=len(data.labels), multi_label=multi_label
    )
