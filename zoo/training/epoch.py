"""One epoch as steps. Its randomness is a function of the seed, the epoch and the batch, of nothing else."""

import math
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from zoo.data.augmentation import TrainingView, draw_shifts, seeded, shift
from zoo.data.targets import balanced_draws
from zoo.errors import TrainingError
from zoo.evaluation.reduce import all_reduce_sum
from zoo.training.context import Session, batch_of, batches_of
from zoo.training.distributed import shard_indices
from zoo.transfer.freeze import freeze_for_epoch, train_unfrozen

MIXING = 1  # sets the draws that mix a batch apart from those of the image of the same number


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

    The images of a last, smaller batch are left out this time. Each process gets its part of every batch.
    """
    settings, data = session.settings, session.data
    batches, count = batches_of(settings, data), batch_of(settings, data)
    device = session.accelerator.device
    words = _words(settings.seed, epoch, 1 + batches)
    _seed(device, words[0])
    chosen = torch.split(_order(session), count)[done:batches]
    _set_modes(session, epoch)
    if epoch > 1 or done:
        session.scheduler.step_update((epoch - 1) * batches + done)
    part = shard_indices(count, session.accelerator.process_index, session.accelerator.num_processes)
    view = TrainingView(data.preprocessing, session.augmentation, settings.seed, epoch)
    image_batches = data.train.batches([indices[part] for indices in chosen], None if session.augmentation.is_none else view)
    for batch, (images, indices) in enumerate(zip(image_batches, chosen, strict=True), start=done + 1):
        _seed(device, words[batch])
        wanted = data.train.targets[indices % len(data.train)]
        moved = _moved(session, images, part, count)
        x, targets = _inputs(session, moved, wanted[part], epoch, batch)
        loss = _step(session, x, targets, count if session.mixer else _weight(session, wanted))
        _check_finite(loss, epoch, batch, batches, settings.lr)
        yield Step(epoch, batch, batches, count, loss, lr=top_rate(session.optimizer))
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


def _moved(session: Session, images: Tensor, part: Tensor, count: int) -> Tensor:
    """Shifted by what is drawn for the batch of all processes; what is drawn afterwards is each one's own."""
    pixels, process = session.settings.max_shift_px, session.accelerator.process_index
    moved = shift(images, draw_shifts(count, pixels)[part]) if pixels else images
    if process:
        _seed(session.accelerator.device, (torch.initial_seed() + process) % 2**63)
    return moved


def _inputs(session: Session, images: Tensor, targets: Tensor, epoch: int, batch: int) -> tuple[Tensor, Tensor]:
    """What the network gets, and the targets: see targets.py; where images are mixed, shares (N, classes)."""
    device = session.accelerator.device
    x, wanted = session.rule.normalise(images.to(device)), targets.to(device)
    if session.settings.channels_last and x.dim() == 4:
        x = x.contiguous(memory_format=torch.channels_last)
    if session.mixer is None:
        return x, wanted
    with seeded(session.settings.seed, epoch, batch, MIXING):
        mixed: tuple[Tensor, Tensor] = session.mixer(x, wanted)
    return mixed


def _step(session: Session, x: Tensor, targets: Tensor, weight: float) -> float:
    """Move the weights once, by the mean over the images of all processes, which weigh `weight`; their mean loss."""
    accelerator, pieces = session.accelerator, session.settings.accumulate_steps
    session.optimizer.zero_grad()
    total = torch.zeros((), device=x.device)
    for piece, (inputs, wanted) in enumerate(
        zip(x.tensor_split(pieces), targets.tensor_split(pieces), strict=True), start=1
    ):
        with nullcontext() if piece == pieces else accelerator.no_sync(session.network):
            with accelerator.autocast():
                outputs = session.network(inputs)
            loss = session.loss(outputs.float(), wanted)
            share = _weight(session, wanted) / weight
            # The share is where the gradient begins: as a factor of the loss it would be one more operation to undo.
            first = torch.full_like(loss, share * accelerator.num_processes)  # whose gradients are averaged
            # What accelerator.backward does, without its division by a number of steps that is always 1.
            (accelerator.scaler.scale(loss) if accelerator.scaler else loss).backward(gradient=first)
        total.add_(loss.detach(), alpha=share)
    if session.settings.clip_grad_norm:
        accelerator.clip_grad_norm_(session.network.parameters(), session.settings.clip_grad_norm)
    session.optimizer.step()
    if session.average is not None:
        session.average.update(session.whole)
    return float(all_reduce_sum(accelerator, total).item())


def _weight(session: Session, targets: Tensor) -> float:
    """What the loss's mean over these targets counts in its mean over a batch."""
    weights = session.loss.weight if isinstance(session.loss, nn.CrossEntropyLoss) else None
    if weights is None or targets.ndim > 1:
        return len(targets)
    return float(weights[targets.to(weights.device)].sum())


def _check_finite(loss: float, epoch: int, batch: int, batches: int, lr: float) -> None:
    if not math.isfinite(loss):
        raise TrainingError(
            f"the loss became {loss} in epoch {epoch}, batch {batch} of {batches}; "
            f"a learning rate under {lr:g} may help"
        )


def _words(seed: int, epoch: int, count: int) -> list[int]:
    """What to seed with in an epoch: for its order, then for each batch; no word depends on how many there are."""
    words: list[int] = np.random.SeedSequence((seed, epoch, 0)).generate_state(count, np.uint64).tolist()
    return words


def _seed(device: torch.device, word: int) -> None:
    """What torch.manual_seed does, for the CPU and `device` alone: for all it takes a tenth of a small network's step."""
    torch.default_generator.manual_seed(word)
    if device.type == "cuda":
        torch.cuda.manual_seed(word)
    elif device.type == "mps":
        torch.mps.manual_seed(word)
