"""One epoch as steps. Its randomness is a function of the seed, the epoch and the batch, of nothing else."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from zoo.augment import TrainingView, seeded, shift
from zoo.errors import TrainingError
from zoo.freeze import freeze_for_epoch, train_unfrozen
from zoo.session import Session, batches_of
from zoo.targets import balanced_draws

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


def steps_of_epoch(session: Session, epoch: int, done: int) -> Iterator[Step]:
    """Train on each image once, in a new order, or on as many balanced draws, but for the first `done` batches.

    The images of a last, smaller batch are left out this time.
    """
    size, batches = session.settings.batch_size, batches_of(session.settings, session.data)
    _seed_step(session.settings.seed, epoch, batch=0)
    order = _order(session)
    _set_modes(session, epoch)
    chosen = torch.split(order, size)[done:batches]
    if epoch > 1 or done:
        session.scheduler.step_update((epoch - 1) * batches + done)
    view = TrainingView(session.data.preprocessing, session.augmentation, session.settings.seed, epoch)
    pictures = session.data.train.batches(chosen, None if session.augmentation.is_none else view)
    for batch, (images, indices) in enumerate(zip(pictures, chosen, strict=True), start=done + 1):
        _seed_step(session.settings.seed, epoch, batch)
        x, targets = _inputs(
            session, images, session.data.train.targets[indices % len(session.data.train)], epoch, batch
        )
        loss = _step(session, x, targets)
        if not math.isfinite(loss):
            raise TrainingError(
                f"the loss became {loss} in epoch {epoch}, batch {batch} of {batches}; "
                f"a learning rate under {session.settings.lr:g} may help"
            )
        yield Step(epoch, batch, batches, len(indices), loss, lr=top_rate(session.optimizer))
        session.scheduler.step_update((epoch - 1) * batches + batch)


def top_rate(optimizer: torch.optim.Optimizer) -> float:
    """The head's learning rate, if layers have their own."""
    return max(float(group["lr"]) for group in optimizer.param_groups)


def _order(session: Session) -> Tensor:
    data = session.data
    if session.settings.imbalance == "sampler":
        return balanced_draws(data.train.targets, len(data.labels))
    return torch.randperm(len(data.train))


def _set_modes(session: Session, epoch: int) -> None:
    transfer = session.settings.transfer
    if transfer is not None:
        freeze_for_epoch(session.whole, transfer.schedule, epoch, session.settings.epochs)
    train_unfrozen(session.whole)


def _inputs(session: Session, images: Tensor, targets: Tensor, epoch: int, batch: int) -> tuple[Tensor, Tensor]:
    """What the net gets, and the targets: see targets.py; where pictures are mixed, shares (N, classes)."""
    device = session.accelerator.device
    moved = shift(images, session.settings.max_shift_px)
    x, wanted = session.rule.normalise(moved.to(device)), targets.to(device)
    if session.mixer is None:
        return x, wanted
    with seeded(session.settings.seed, epoch, batch, MIXING):
        mixed: tuple[Tensor, Tensor] = session.mixer(x, wanted)
    return mixed


def _step(session: Session, x: Tensor, targets: Tensor) -> float:
    loss = session.loss(session.net(x), targets)
    session.optimizer.zero_grad()
    session.accelerator.backward(loss)
    session.optimizer.step()
    if session.average is not None:
        session.average.update(session.whole)
    return float(loss.item())


def _seed_step(seed: int, epoch: int, batch: int) -> None:
    torch.manual_seed(int(np.random.SeedSequence((seed, epoch, batch)).generate_state(1, np.uint64)[0]))
