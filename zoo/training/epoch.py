"""One epoch as a sequence of steps. All randomness follows from the seed, the epoch and the batch alone."""

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
from zoo.training.context import TrainingContext, images_per_step, steps_per_epoch
from zoo.training.distributed import shard_indices
from zoo.transfer.freeze import freeze_for_epoch, train_unfrozen

MIXING = 1  # part of the mixer's seed: keeps it apart from the seed of the image whose index equals the batch number


@dataclass(frozen=True)
class Step:
    """One training step, as an observer receives it.

    Attributes:
        epoch: Counted from 1.
        batch: Counted from 1 within the epoch.
        batches: Batches of an epoch.
        images: Images of the step, over all processes.
        loss: Mean loss over these images, label smoothing included.
        lr: Highest learning rate of any layer.
    """

    epoch: int
    batch: int
    batches: int
    images: int
    loss: float
    lr: float


def steps_of_epoch(context: TrainingContext, epoch: int, completed: int) -> Iterator[Step]:
    """Train for one epoch, after its first `completed` batches, and yield each step.

    An epoch uses each image once in a new order, or as many balanced draws; a last, smaller batch is dropped. Each
    process trains on its own shard of every batch.

    Raises:
        TrainingError: The loss is infinite or not a number.
    """
    settings, train, device = context.settings, context.inputs.train, context.accelerator.device
    batches, batch_size = steps_per_epoch(settings, context.inputs), images_per_step(settings, context.inputs)
    seeds = _seeds(settings.seed, epoch, 1 + batches)
    _set_seed(device, seeds[0])
    batch_indices = torch.split(_image_order(context), batch_size)[completed:batches]
    _set_train_mode(context, epoch)
    if epoch > 1 or completed:
        context.scheduler.step_update((epoch - 1) * batches + completed)
    shard = shard_indices(batch_size, context.accelerator.process_index, context.accelerator.num_processes)
    image_batches = train.batches([indices[shard] for indices in batch_indices], _training_view(context, epoch))
    for batch, (images, indices) in enumerate(zip(image_batches, batch_indices, strict=True), start=completed + 1):
        _set_seed(device, seeds[batch])
        batch_targets = train.targets[indices % len(train)]  # balanced draws number an image's repeats i + k * N
        shifted = _shift(context, images, shard, batch_size)
        x, targets = _normalise_and_mix(context, shifted, batch_targets[shard], epoch, batch)
        batch_weight = batch_size if context.mixer else _loss_weight(context, batch_targets)
        loss = _step(context, x, targets, batch_weight)
        _check_finite(loss, epoch, batch, batches, settings.lr)
        yield Step(epoch, batch, batches, batch_size, loss, lr=highest_lr(context.optimizer))
        context.scheduler.step_update((epoch - 1) * batches + batch)


def highest_lr(optimizer: torch.optim.Optimizer) -> float:
    """Return the highest learning rate of all parameter groups: with layer decay, that of the head."""
    return max(float(group["lr"]) for group in optimizer.param_groups)


def _image_order(context: TrainingContext) -> Tensor:
    """Draw the indices of the epoch's training images, (N,)."""
    inputs = context.inputs
    if context.settings.imbalance == "sampler":
        return balanced_draws(inputs.train.targets, len(inputs.labels))
    return torch.randperm(len(inputs.train))


def _training_view(context: TrainingContext, epoch: int) -> TrainingView | None:
    if context.augmentation.is_none:
        return None
    return TrainingView(context.inputs.preprocessing, context.augmentation, context.settings.seed, epoch)


def _set_train_mode(context: TrainingContext, epoch: int) -> None:
    """Freeze and unfreeze by the schedule; put all trained modules into training mode."""
    transfer = context.settings.transfer
    if transfer is not None:
        freeze_for_epoch(context.network, transfer.schedule, epoch, context.settings.epochs)
    train_unfrozen(context.network)


def _shift(context: TrainingContext, images: Tensor, shard: Tensor, batch_size: int) -> Tensor:
    """Shift images at random. The draw covers the batch of all processes; later draws differ between processes."""
    max_shift_px, process = context.settings.max_shift_px, context.accelerator.process_index
    shifted = shift(images, draw_shifts(batch_size, max_shift_px)[shard]) if max_shift_px else images
    if process:
        _set_seed(context.accelerator.device, (torch.initial_seed() + process) % 2**63)
    return shifted


def _normalise_and_mix(
    context: TrainingContext, images: Tensor, targets: Tensor, epoch: int, batch: int
) -> tuple[Tensor, Tensor]:
    """Return the network's input and its targets, as in zoo/data/targets.py; mixed targets are shares (N, classes)."""
    device = context.accelerator.device
    x, targets = context.input_rule.normalise(images.to(device)), targets.to(device)
    if context.settings.channels_last and x.dim() == 4:
        x = x.contiguous(memory_format=torch.channels_last)
    if context.mixer is None:
        return x, targets
    with seeded(context.settings.seed, epoch, batch, MIXING):
        mixed: tuple[Tensor, Tensor] = context.mixer(x, targets)
    return mixed


def _step(context: TrainingContext, x: Tensor, targets: Tensor, batch_weight: float) -> float:
    """Update the weights once; return the mean loss over the batch of all processes.

    The mean is weighted: `batch_weight` is the sum of the weights of all its images.
    """
    accelerator, accumulate_steps = context.accelerator, context.settings.accumulate_steps
    context.optimizer.zero_grad()
    mean_loss = torch.zeros((), device=x.device)
    micro_batches = zip(x.tensor_split(accumulate_steps), targets.tensor_split(accumulate_steps), strict=True)
    for number, (inputs, micro_targets) in enumerate(micro_batches, start=1):
        with nullcontext() if number == accumulate_steps else accelerator.no_sync(context.trained_module):
            with accelerator.autocast():
                outputs = context.trained_module(inputs)
            loss = context.loss_function(outputs.float(), micro_targets)
            share = _loss_weight(context, micro_targets) / batch_weight
            # The share is passed as the initial gradient: multiplying the loss by it would add an operation to
            # backward. Gradients are averaged over the processes, hence the factor.
            gradient = torch.full_like(loss, share * accelerator.num_processes)
            # As accelerator.backward, without its division by a number of accumulation steps that is always 1.
            (accelerator.scaler.scale(loss) if accelerator.scaler else loss).backward(gradient=gradient)
        mean_loss.add_(loss.detach(), alpha=share)
    if context.settings.clip_grad_norm:
        accelerator.clip_grad_norm_(context.trained_module.parameters(), context.settings.clip_grad_norm)
    context.optimizer.step()
    if context.ema is not None:
        context.ema.update(context.network)
    return float(all_reduce_sum(accelerator, mean_loss).item())


def _loss_weight(context: TrainingContext, targets: Tensor) -> float:
    """Return the weight of these targets in a mean over several batches: their number, or the sum of class weights."""
    loss_function = context.loss_function
    weights = loss_function.weight if isinstance(loss_function, nn.CrossEntropyLoss) else None
    if weights is None or targets.ndim > 1:
        return len(targets)
    return float(weights[targets.to(weights.device)].sum())


def _check_finite(loss: float, epoch: int, batch: int, batches: int, lr: float) -> None:
    if not math.isfinite(loss):
        raise TrainingError(
            f"the loss became {loss} in epoch {epoch}, batch {batch} of {batches}; "
            f"a learning rate under {lr:g} may help"
        )


def _seeds(seed: int, epoch: int, count: int) -> list[int]:
    """Return seeds for the epoch's image order and for each batch; none of them depends on `count`."""
    seeds: list[int] = np.random.SeedSequence((seed, epoch, 0)).generate_state(count, np.uint64).tolist()
    return seeds


def _set_seed(device: torch.device, seed: int) -> None:
    """Seed the CPU and `device` only: torch.manual_seed, for all devices, takes a tenth of a small network's step."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)
    elif device.type == "mps":
        torch.mps.manual_seed(seed)
