"""The training loop. Its randomness is a function of the seed, the epoch and the batch, of nothing else."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from timm.data import Mixup
from timm.scheduler import CosineLRScheduler
from timm.utils import ModelEmaV3
from torch import Tensor, nn

from zoo.augment import Augmentation, TrainingView, seeded, shift
from zoo.build import build_net
from zoo.checkpoint import read_checkpoint, save_checkpoint, save_metrics, start_run, write_epochs
from zoo.data import NO_AUGMENTATION, Dataset, find_data
from zoo.errors import DeviceError, InterruptedRunError, SettingsError, TrainingError
from zoo.evaluate import evaluate
from zoo.freeze import freeze_for_epoch, train_unfrozen
from zoo.load import WeightsSource
from zoo.optimise import make_optimizer, make_scheduler
from zoo.preprocessing import InputRule
from zoo.probe import features_of
from zoo.resume import Position, check_resumable, drop_state, interruptions, load_state, save_state
from zoo.settings import Device, TrainSettings

MIXING = 1  # sets the draws that mix a batch apart from those of the picture of the same number


@dataclass(frozen=True)
class Step:
    """One training step, as an observer sees it; `epoch` and `batch` count from 1."""

    epoch: int
    batch: int
    batches: int
    images: int
    loss: float
    lr: float


@dataclass(frozen=True)
class EpochMetrics:
    """What one epoch measured; `train_loss` is the mean over its steps, with label smoothing."""

    epoch: int
    train_loss: float
    val_loss: float
    val_accuracy: float

    @property
    def rank(self) -> tuple[float, float]:
        """Accuracy on the validation split; among equals, the lower loss ranks higher."""
        return (self.val_accuracy, -self.val_loss)


@dataclass(frozen=True)
class TrainResult:
    """The best epoch, and its weights' accuracy on the test split; `skipped` names bad images that were left out."""

    best: EpochMetrics
    test_accuracy: float
    seconds: float
    skipped: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Session:
    """What one run works with; `net` is what is trained by `rule`: the `whole`, or its head on stored features."""

    settings: TrainSettings
    data: Dataset
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
    scheduler: CosineLRScheduler
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


Observer = Callable[[Step | EpochMetrics], None]


def train(settings: TrainSettings, run: Path, observe: Observer | None = None, *, resume: bool = False) -> TrainResult:
    """Train a net, or tune a backbone, into the new folder `run`; `observe` is told of each step and epoch.

    With `resume`, go on with a run that stopped, to the weights that it would have had without stopping, bit for bit.

    Raises:
        ZooError: see its subclasses; nothing is written if the settings, the data or the device are at fault.
        TrainingError: the loss is no longer a number.
        InterruptedRunError: Ctrl-C.
    """
    started = time.perf_counter()
    accelerator = _accelerator(settings.device)
    if resume:
        check_resumable(run, settings)
    with _own_generators(accelerator.device), interruptions() as interrupted:
        session = _prepare(settings, accelerator)
        if settings.transfer is not None and settings.transfer.cached:
            session = _on_features(session, run.parent / ".features")
        if not resume:
            start_run(run, settings, session.origin.licence, session.origin.url)
        position = load_state(run, session.state, session.optimizer, session.data_key) if resume else Position()
        best = _fit(session, run, position, observe or (lambda event: None), interrupted)
        test_accuracy = _test_best(session, run)
        drop_state(run)
    return TrainResult(best, test_accuracy, time.perf_counter() - started, session.data.skipped)


def _prepare(settings: TrainSettings, accelerator: Accelerator) -> _Session:
    source = find_data(settings.data, bad_images=settings.bad_images, workers=settings.workers)
    torch.manual_seed(settings.seed)
    net, data, origin = build_net(settings, source)
    optimizer = make_optimizer(net, settings)
    scheduler = make_scheduler(optimizer, settings.lr, _batches(settings, data) * settings.epochs)
    net, optimizer = accelerator.prepare(net, optimizer)
    loss = nn.CrossEntropyLoss(label_smoothing=settings.label_smoothing)
    augmentation = _augmentation(settings, data)
    whole = accelerator.unwrap_model(net)
    return _Session(
        settings=settings,
        data=data,
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


def _on_features(session: _Session, cache: Path) -> _Session:
    """The same session for the head alone, on features in place of pictures."""
    data, rule = features_of(session.whole, session.data, cache)
    return replace(
        session, data=data, rule=rule, on_features=True, net=session.whole.head, augmentation=NO_AUGMENTATION
    )


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
    return Mixup(settings.mixup, settings.cutmix, label_smoothing=0.0, num_classes=len(data.labels))


def _fit(session: _Session, run: Path, position: Position, observe: Observer, interrupted: Event) -> EpochMetrics:
    """Train from `position` to the end."""
    while position.epoch <= session.settings.epochs:
        started = time.perf_counter()
        for step in _epoch(session, position.epoch, done=position.batch):
            position.losses.append(step.loss)
            position.batch = step.batch
            observe(step)
            _save_between(session, run, position, step, interrupted)
        metrics = _validate(session, position.epoch, train_loss=sum(position.losses) / len(position.losses))
        _save(session, run / "last", metrics)
        if all(metrics.rank > earlier.rank for earlier in _epochs(position)):
            _save(session, run / "best", metrics)
        line = {**asdict(metrics), "seconds": round(time.perf_counter() - started, 3)}
        position = Position(position.epoch + 1, history=[*position.history, line])
        write_epochs(run, position.history)
        save_state(run, session.state, session.optimizer, position, session.data_key)
        observe(metrics)
    return max(_epochs(position), key=lambda metrics: metrics.rank)


def _epochs(position: Position) -> list[EpochMetrics]:
    names = [each.name for each in fields(EpochMetrics)]
    return [EpochMetrics(**{name: line[name] for name in names}) for line in position.history]  # type: ignore[arg-type]


def _save_between(session: _Session, run: Path, position: Position, step: Step, interrupted: Event) -> None:
    """Save the state after a step where that is due, or where someone wants to stop."""
    every, done = session.settings.checkpoint_every_steps, (step.epoch - 1) * step.batches + step.batch
    if interrupted.is_set() or (every and done % every == 0):
        save_state(run, session.state, session.optimizer, position, session.data_key)
    if interrupted.is_set():
        where = f"in epoch {step.epoch} after batch {step.batch} of {step.batches}"
        raise InterruptedRunError(f"stopped {where}; {run} is saved, and the same command with --resume goes on")


def _epoch(session: _Session, epoch: int, done: int) -> Iterator[Step]:
    """Train on each image once, in a new order, but for the first `done` batches.

    The images of a last, smaller batch are left out this time.
    """
    size, batches = session.settings.batch_size, _batches(session.settings, session.data)
    _seed_step(session.settings.seed, epoch, batch=0)
    order = torch.randperm(len(session.data.train))
    _set_modes(session, epoch)
    chosen = torch.split(order, size)[done:batches]
    if epoch > 1 or done:
        session.scheduler.step_update((epoch - 1) * batches + done)
    view = TrainingView(session.data.preprocessing, session.augmentation, session.settings.seed, epoch)
    pictures = session.data.train.batches(chosen, None if session.augmentation.is_none else view)
    for batch, (images, indices) in enumerate(zip(pictures, chosen, strict=True), start=done + 1):
        _seed_step(session.settings.seed, epoch, batch)
        x, targets = _inputs(session, images, session.data.train.targets[indices], epoch, batch)
        loss = _step(session, x, targets)
        if not math.isfinite(loss):
            raise TrainingError(
                f"the loss became {loss} in epoch {epoch}, batch {batch} of {batches}; "
                f"a learning rate under {session.settings.lr:g} may help"
            )
        yield Step(epoch, batch, batches, len(indices), loss, lr=_top_rate(session.optimizer))
        session.scheduler.step_update((epoch - 1) * batches + batch)


def _set_modes(session: _Session, epoch: int) -> None:
    transfer = session.settings.transfer
    if transfer is not None:
        freeze_for_epoch(session.whole, transfer.schedule, epoch, session.settings.epochs)
    train_unfrozen(session.whole)


def _inputs(session: _Session, images: Tensor, targets: Tensor, epoch: int, batch: int) -> tuple[Tensor, Tensor]:
    """What the net gets, and the targets, class indices (N,), or shares (N, classes) where pictures are mixed."""
    device = session.accelerator.device
    moved = shift(images, session.settings.max_shift_px)
    x, wanted = session.rule.normalise(moved.to(device)), targets.to(device)
    if session.mixer is None:
        return x, wanted
    with seeded(session.settings.seed, epoch, batch, MIXING):
        mixed: tuple[Tensor, Tensor] = session.mixer(x, wanted)
    return mixed


def _step(session: _Session, x: Tensor, targets: Tensor) -> float:
    loss = session.loss(session.net(x), targets)
    session.optimizer.zero_grad()
    session.accelerator.backward(loss)
    session.optimizer.step()
    if session.average is not None:
        session.average.update(session.whole)
    return float(loss.item())


def _validate(session: _Session, epoch: int, train_loss: float) -> EpochMetrics:
    val = session.data.val
    evaluation = evaluate(session.measured, val, session.rule)
    return EpochMetrics(epoch, train_loss, evaluation.loss, evaluation.accuracy)


def _save(session: _Session, folder: Path, metrics: EpochMetrics) -> None:
    save_checkpoint(folder, session.result, session.data.labels, asdict(metrics))


def _test_best(session: _Session, run: Path) -> float:
    """The best weights' accuracy on the test split, which the run looks at only here; noted in best/metrics.json."""
    checkpoint, test = read_checkpoint(run / "best"), session.data.test
    checkpoint.load_into(session.result)
    evaluation = evaluate(session.measured, test, session.rule)
    found = {"test_loss": evaluation.loss, "test_accuracy": evaluation.accuracy}
    save_metrics(checkpoint.folder, {**checkpoint.metrics, **found})
    return evaluation.accuracy


def _top_rate(optimizer: torch.optim.Optimizer) -> float:
    """The head's learning rate, if layers have their own."""
    return max(float(group["lr"]) for group in optimizer.param_groups)


def _batches(settings: TrainSettings, data: Dataset) -> int:
    return max(1, len(data.train) // settings.batch_size)


def _accelerator(device: Device) -> Accelerator:
    there = {"auto": True, "cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not there[device]:
        known = ", ".join(name for name, is_there in there.items() if is_there)
        raise DeviceError(f"there is no device '{device}' on this machine; choose one of {known}")
    accelerator = Accelerator(cpu=device == "cpu")
    if device not in ("auto", accelerator.device.type):
        raise DeviceError(f"the device should be '{device}', but accelerate chose '{accelerator.device.type}'")
    return accelerator


@contextmanager
def _own_generators(device: torch.device) -> Iterator[None]:
    """Give the caller's random generators back as they were."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield


def _seed_step(seed: int, epoch: int, batch: int) -> None:
    torch.manual_seed(int(np.random.SeedSequence((seed, epoch, batch)).generate_state(1, np.uint64)[0]))
