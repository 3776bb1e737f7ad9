"""Everything a training run works with, built once before the first step."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from timm.data import Mixup
from timm.scheduler.scheduler import Scheduler
from timm.utils import ModelEmaV3
from torch import nn

from zoo.data.augmentation import NO_AUGMENTATION, Augmentation
from zoo.data.crop_check import warn_if_cropped
from zoo.data.dataset import Dataset
from zoo.data.registry import find_data
from zoo.data.targets import class_weights, make_loss
from zoo.errors import SettingsError
from zoo.networks.preprocessing import InputTransform
from zoo.runs.load import WeightsSource
from zoo.settings import TrainSettings
from zoo.training.build import build_network
from zoo.training.optim import make_optimizer, make_scheduler
from zoo.transfer.feature_cache import cached_features
from zoo.transfer.prototype_init import init_from_class_means


@dataclass(frozen=True)
class TrainingContext:
    """Everything a training run works with.

    Attributes:
        settings: The settings of the run.
        accelerator: Device, precision and processes.
        dataset: The images with their splits, labels and preprocessing.
        dataset_key: Hash of the training images; a run resumes on the same ones only.
        network: The complete network, as it is saved.
        initial_weights: Where the weights of `network` came from.
        ema: Exponential moving average of `network`. None: no average.
        on_features: Whether the head alone is trained, on stored features of the backbone.
        inputs: `dataset`, or with `on_features` the same splits with features in place of images.
        input_rule: Normalises a batch of `inputs`.
        augmentation: Random changes to single training images; none with `on_features`.
        mixer: Mixup and CutMix over a batch. None: neither.
        trained_module: The module that a training step runs: `network`, or its head with `on_features`; wrapped to
            average gradients where several processes train together.
        optimizer: Updates all parameters of `network`; frozen ones have no gradient and stay as they are.
        scheduler: Sets the learning rate after each step.
        loss_function: Mean loss over a batch.
    """

    settings: TrainSettings
    accelerator: Accelerator
    dataset: Dataset
    dataset_key: str
    network: Any
    initial_weights: WeightsSource
    ema: ModelEmaV3 | None
    on_features: bool
    inputs: Dataset
    input_rule: InputTransform
    augmentation: Augmentation
    mixer: Mixup | None
    trained_module: nn.Module
    optimizer: torch.optim.Optimizer
    scheduler: Scheduler
    loss_function: nn.Module

    @property
    def eval_network(self) -> Any:
        """The complete network that is evaluated and saved: the moving average if there is one."""
        return self.network if self.ema is None else self.ema.module

    @property
    def eval_module(self) -> nn.Module:
        """The part of `eval_network` that accepts `inputs`: its head with `on_features`, else all of it."""
        module: nn.Module = self.eval_network.head if self.on_features else self.eval_network
        return module

    @property
    def checkpointed(self) -> nn.Module:
        """All tensors that training changes: those that are trained, and their moving average."""
        trained: nn.Module = self.network.head if self.on_features else self.network
        return trained if self.ema is None else nn.ModuleList([trained, self.eval_module])


def steps_per_epoch(settings: TrainSettings, dataset: Dataset) -> int:
    """Return the number of full batches of an epoch, at least 1."""
    return max(1, len(dataset.train) // settings.batch_size)


def images_per_step(settings: TrainSettings, dataset: Dataset) -> int:
    """Return the number of images of a step, over all processes."""
    return min(settings.batch_size, len(dataset.train))


def build_context(settings: TrainSettings, accelerator: Accelerator, features_folder: Path) -> TrainingContext:
    """Build, in this order: dataset and network, optimiser and schedule, inputs, loss.

    The weights follow from `settings.seed`; torch's generator is seeded here. With `Transfer.cached` the backbone's
    features are read from `features_folder`, or computed and stored there.

    Raises:
        ZooError: See its subclasses; the dataset, the network or the settings do not work together.
    """
    network, dataset, initial_weights = _load_dataset_and_network(settings, accelerator)
    network.to(accelerator.device)
    if settings.channels_last:
        network.to(memory_format=torch.channels_last)
    if settings.transfer is not None and settings.transfer.head_init == "means":
        init_from_class_means(network, dataset, settings.max_shift_px)
    optimizer = make_optimizer(network, settings)
    scheduler = make_scheduler(optimizer, settings.lr, steps_per_epoch(settings, dataset) * settings.epochs)
    augmentation, mixer = _augmentation(settings, dataset), _mixer(settings, dataset)
    inputs = dataset
    input_rule: InputTransform = dataset.preprocessing
    on_features = settings.transfer is not None and settings.transfer.cached
    if on_features:
        with accelerator.main_process_first():
            inputs, input_rule = cached_features(network, dataset, features_folder)
        augmentation = NO_AUGMENTATION
    trained_module = accelerator.prepare(network.head if on_features else network)
    if accelerator.scaler is not None:  # accelerate's optimiser wrapper costs time and only serves the scaler
        optimizer = accelerator.prepare(optimizer)
    _remove_autocast_wrapper(accelerator, trained_module)
    return TrainingContext(
        settings=settings,
        accelerator=accelerator,
        dataset=dataset,
        dataset_key=dataset.train.key(),
        network=network,
        initial_weights=initial_weights,
        ema=ModelEmaV3(network, decay=settings.ema_decay) if settings.ema_decay else None,
        on_features=on_features,
        inputs=inputs,
        input_rule=input_rule,
        augmentation=augmentation,
        mixer=mixer,
        trained_module=trained_module,
        optimizer=optimizer,
        scheduler=scheduler,
        loss_function=_loss_function(settings, dataset).to(accelerator.device),
    )


def _load_dataset_and_network(settings: TrainSettings, accelerator: Accelerator) -> tuple[Any, Dataset, WeightsSource]:
    """Load the dataset and build the network for it; the main process first, since it may download either."""
    with accelerator.main_process_first():
        source = find_data(settings.data, bad_images=settings.bad_images, workers=settings.workers)
        torch.manual_seed(settings.seed)
        network, dataset, initial_weights = build_network(settings, source)
    _check_batches(settings, dataset, accelerator.num_processes)
    _check_shift(settings, dataset)
    if source.input_size is None and accelerator.is_main_process and settings.fold <= 1:
        warn_if_cropped(dataset)
    return network, dataset, initial_weights


def _check_batches(settings: TrainSettings, dataset: Dataset, processes: int) -> None:
    """Require at least one image per accumulation step in every process."""
    images = images_per_step(settings, dataset)
    smallest_shard = images if processes == 1 else 2 * (images // 2 // processes)
    if smallest_shard < settings.accumulate_steps:
        needed = f"{settings.accumulate_steps} accumulation steps in each of {processes} processes"
        raise SettingsError(f"batches of {images} images are too small for {needed}")


def _check_shift(settings: TrainSettings, dataset: Dataset) -> None:
    """Require that a shifted image keeps at least one row and column; an axis of length 1 is never shifted."""
    sides = [side for side in dataset.input_size[1:] if side > 1]
    if settings.max_shift_px and settings.max_shift_px >= min(sides, default=1):
        size = "x".join(str(side) for side in dataset.input_size[1:])
        raise SettingsError(f"max_shift_px {settings.max_shift_px} can shift an image of {size} pixels out of view")


def _remove_autocast_wrapper(accelerator: Accelerator, trained_module: nn.Module) -> None:
    """Restore the module's own forward: steps use autocast explicitly, and copies of the network stay unwrapped."""
    module = accelerator.unwrap_model(trained_module, keep_fp32_wrapper=False)
    vars(module).pop("forward", None)


def _loss_function(settings: TrainSettings, dataset: Dataset) -> nn.Module:
    weights = class_weights(dataset.train.targets, len(dataset.labels)) if settings.imbalance == "weights" else None
    return make_loss(dataset.task, settings.label_smoothing, weights)


def _augmentation(settings: TrainSettings, dataset: Dataset) -> Augmentation:
    default = dataset.augmentation
    return Augmentation(
        flip=default.flip if settings.flip is None else settings.flip,
        min_crop=default.min_crop if settings.min_crop is None else settings.min_crop,
        rand_augment=settings.rand_augment,
    )


def _mixer(settings: TrainSettings, dataset: Dataset) -> Mixup | None:
    if not settings.mixes_images:
        return None
    images = len(dataset.train)
    if images < settings.batch_size and images % 2:
        raise SettingsError(
            f"{dataset.name} has {images} training images, all in one batch, which cannot be mixed in pairs"
        )
    return Mixup(
        settings.mixup,
        settings.cutmix,
        label_smoothing=0.0,
        num_classes=len(dataset.labels),
        multi_label=dataset.task == "multi-label",
    )
