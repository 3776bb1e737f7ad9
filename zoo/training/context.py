"""What one run works with: the network, its data, what changes its weights, and where."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedDataParallelKwargs
from timm.data import Mixup
from timm.scheduler.scheduler import Scheduler
from timm.utils import ModelEmaV3
from torch import nn

from zoo.data.augmentation import Augmentation
from zoo.data.crop_check import warn_if_cropped
from zoo.data.registry import NO_AUGMENTATION, Dataset, find_data
from zoo.data.targets import class_weights, make_loss
from zoo.errors import DeviceError, SettingsError
from zoo.networks.preprocessing import InputRule
from zoo.runs.load import WeightsSource
from zoo.settings import TrainSettings
from zoo.training.build import build_net
from zoo.training.optim import make_optimizer, make_scheduler
from zoo.training.trackers import check_tracker
from zoo.transfer.feature_cache import features_of
from zoo.transfer.prototype_init import init_from_class_means


@dataclass(frozen=True)
class Session:
    """What one run works with; `network` is what is trained by `rule`: the `whole`, or its head on stored features.

    `data` are the `images`, or their features. Where processes train together `network` also joins their gradients.
    """

    settings: TrainSettings
    data: Dataset
    images: Dataset
    data_key: str
    origin: WeightsSource
    augmentation: Augmentation
    mixer: Mixup | None
    accelerator: Accelerator
    whole: Any
    average: ModelEmaV3 | None
    network: nn.Module
    rule: InputRule
    on_features: bool
    optimizer: torch.optim.Optimizer
    scheduler: Scheduler
    loss: nn.Module

    @property
    def result(self) -> Any:
        """The network that is measured and kept: the average where there is one."""
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
    """How many steps an epoch has."""
    return max(1, len(data.train) // settings.batch_size)


def batch_of(settings: TrainSettings, data: Dataset) -> int:
    """How many images a step has, over all processes."""
    return min(settings.batch_size, len(data.train))


def make_accelerator(settings: TrainSettings, run: Path) -> Accelerator:
    """Where to compute, and with whom.

    Raises:
        DeviceError: the device is not there.
        SettingsError: the precision is not one of the device's, or a tracker is not installed.
    """
    device = device_of(settings)
    check_tracker(settings.track)
    # Precision is part of a state that all accelerators of a process share, and that another run may have made.
    AcceleratorState._reset_state(reset_partial_state=False)
    accelerator = Accelerator(
        cpu=device == "cpu",
        mixed_precision=settings.mixed_precision,
        log_with=None if settings.track == "none" else settings.track,
        project_dir=run,
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=settings.transfer is not None)],
    )
    if accelerator.device.type != device:
        raise DeviceError(f"the device should be '{device}', but accelerate chose '{accelerator.device.type}'")
    return accelerator


def device_of(settings: TrainSettings) -> str:
    """The device's type; with `auto` the best that is there.

    Raises:
        DeviceError: the device is not there.
        SettingsError: the precision is not one of the device's.
    """
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    device = (
        next(name for name, is_there in there.items() if is_there) if settings.device == "auto" else settings.device
    )
    if not there[device]:
        known = ", ".join(["auto", *sorted(name for name, is_there in there.items() if is_there)])
        raise DeviceError(f"there is no device '{device}' on this machine; choose one of {known}")
    if device == "cpu" and settings.mixed_precision == "fp16":
        raise SettingsError("mixed_precision fp16 needs a GPU; on a CPU choose bf16 or no")
    return device


def prepare(settings: TrainSettings, accelerator: Accelerator, features: Path) -> Session:
    """Make all that a run works with; `features` is the folder where those of a cached probe are stored."""
    cached = settings.transfer is not None and settings.transfer.cached
    with accelerator.main_process_first():
        source = find_data(settings.data, bad_images=settings.bad_images, workers=settings.workers)
        torch.manual_seed(settings.seed)
        network, data, origin = build_net(settings, source)
    whole: Any = network
    _check_pieces(settings, data, accelerator.num_processes)
    _check_shift(settings, data)
    if source.input_size is None and accelerator.is_main_process and settings.fold <= 1:
        warn_if_cropped(data)
    whole.to(accelerator.device)
    if settings.channels_last:
        whole.to(memory_format=torch.channels_last)
    if settings.transfer is not None and settings.transfer.head_init == "means":
        init_from_class_means(whole, data, settings.max_shift_px)
    optimizer = make_optimizer(whole, settings)
    scheduler = make_scheduler(optimizer, settings.lr, batches_of(settings, data) * settings.epochs)
    augmentation, mixer = _augmentation(settings, data), _mixer(settings, data)
    images = data
    rule: InputRule = data.preprocessing
    if cached:
        with accelerator.main_process_first():
            data, rule = features_of(whole, data, features)
        augmentation = NO_AUGMENTATION
    network = accelerator.prepare(whole.head if cached else whole)
    if accelerator.scaler is not None:  # all that accelerate's own kind of optimiser is for, and it costs time
        optimizer = accelerator.prepare(optimizer)
    _drop_wrappers(accelerator, network)
    return Session(
        settings=settings,
        data=data,
        images=images,
        data_key=images.train.key(),
        origin=origin,
        augmentation=augmentation,
        mixer=mixer,
        accelerator=accelerator,
        whole=whole,
        average=ModelEmaV3(whole, decay=settings.ema_decay) if settings.ema_decay else None,
        network=network,
        rule=rule,
        on_features=cached,
        optimizer=optimizer,
        scheduler=scheduler,
        loss=_loss(settings, images).to(accelerator.device),
    )


def _check_pieces(settings: TrainSettings, data: Dataset, processes: int) -> None:
    """Require an image for every piece of a batch, in every process."""
    count = batch_of(settings, data)
    least = count if processes == 1 else 2 * (count // 2 // processes)
    if least < settings.accumulate_steps:
        pieces = f"{settings.accumulate_steps} pieces in each of {processes} processes"
        raise SettingsError(f"batches of {count} images are too small for {pieces}")


def _check_shift(settings: TrainSettings, data: Dataset) -> None:
    """Require that a shift leaves something of every image; an axis of length 1 does not move."""
    sides = [side for side in data.input_size[1:] if side > 1]
    if settings.max_shift_px and settings.max_shift_px >= min(sides, default=1):
        size = "x".join(str(side) for side in data.input_size[1:])
        raise SettingsError(f"max_shift_px {settings.max_shift_px} moves images of {size} pixels out of sight")


def _drop_wrappers(accelerator: Accelerator, network: nn.Module) -> None:
    """Take accelerate's autocast off the network's own forward: steps ask for it themselves, and copies stay plain networks."""
    plain = accelerator.unwrap_model(network, keep_fp32_wrapper=False)
    vars(plain).pop("forward", None)


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
        raise SettingsError(f"{data.name} trains on {len(data.train)} images at once, which cannot be mixed in pairs")
    multi_label = data.task == "multi-label"
    return Mixup(
        settings.mixup, settings.cutmix, label_smoothing=0.0, num_classes=len(data.labels), multi_label=multi_label
    )
