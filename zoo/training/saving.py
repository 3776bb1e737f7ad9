"""Saving of a run: its state after steps and epochs, its checkpoints and metrics after epochs.

With several processes only the main one writes.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event

from safetensors import SafetensorError

from zoo.errors import InterruptedRunError, TrainingError
from zoo.runs.checkpoint import save_checkpoint, start_run, write_epochs
from zoo.settings import TrainSettings
from zoo.training.context import TrainingContext
from zoo.training.distributed import all_reduce_any
from zoo.training.epoch import Step, highest_lr
from zoo.training.results import EpochMetrics
from zoo.training.resume import Position, load_state, save_state


def open_run(context: TrainingContext, run: Path, *, resume: bool) -> Position:
    """Create the folder of a new run, or restore a stopped one; return the position from which to train.

    Raises:
        CheckpointError: A new run's folder is not empty, or a stopped run's state cannot be restored.
    """
    if resume:
        scaler = context.accelerator.scaler
        position = load_state(run, context.checkpointed, context.optimizer, scaler, context.dataset_key)
    else:
        position = Position()
        if context.accelerator.is_main_process:
            start_run(run, context.settings, context.initial_weights.licence, context.initial_weights.url)
    context.accelerator.wait_for_everyone()  # every process has read the state before the main one replaces it
    return position


def save_after_step(context: TrainingContext, run: Path, position: Position, step: Step, interrupted: Event) -> None:
    """Save the state if it is due, or if the run was interrupted.

    Raises:
        InterruptedRunError: The run was interrupted, in any process; its state is saved.
    """
    interval = context.settings.checkpoint_every_steps
    steps_done = (step.epoch - 1) * step.batches + step.batch
    stop = all_reduce_any(context.accelerator, interrupted.is_set())
    if stop or (interval and steps_done % interval == 0):
        with explain_write_errors(run):
            _save_state(context, run, position)
    if stop:
        raise InterruptedRunError(
            f"stopped in epoch {step.epoch} after batch {step.batch} of {step.batches}; "
            f"{run} is saved: repeat the command with --resume to continue"
        )


def save_after_epoch(
    context: TrainingContext, run: Path, position: Position, metrics: EpochMetrics, seconds: float
) -> Position:
    """Save last/, best/ if the epoch is the best so far, metrics.jsonl and the state; return the next position."""
    line = {**metrics.to_json(), "lr": highest_lr(context.optimizer), "seconds": seconds}
    next_position = Position(position.epoch + 1, history=[*position.history, line])
    if context.accelerator.is_main_process:
        with explain_write_errors(run):
            # On features an epoch is short and only the head changes, which the state contains: save last/ at the end.
            if not context.on_features or is_finished(context.settings, next_position):
                _save_checkpoint(context, run / "last", metrics)
            if all(metrics.rank > earlier.rank for earlier in completed_epochs(position)):
                _save_checkpoint(context, run / "best", metrics)
            write_epochs(run, next_position.history)
            _save_state(context, run, next_position)
    return next_position


def completed_epochs(position: Position) -> list[EpochMetrics]:
    """Return the metrics of the epochs before `position`."""
    return [EpochMetrics.from_json(line) for line in position.history]


def is_finished(settings: TrainSettings, position: Position) -> bool:
    """Return whether training is over: all epochs are done, or `patience` of them passed without a new best one."""
    ranks = [metrics.rank for metrics in completed_epochs(position)]
    epochs_since_best = len(ranks) - 1 - ranks.index(max(ranks)) if ranks else 0
    return position.epoch > settings.epochs or 0 < settings.patience <= epochs_since_best


@contextmanager
def explain_write_errors(run: Path) -> Iterator[None]:
    """Translate write errors into an error that explains how to continue.

    Raises:
        TrainingError: A file could not be written; the files saved earlier are intact.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise TrainingError(
            f"{run} could not be saved: {error}; earlier saves are intact: free some space, then repeat the command "
            "with --resume to continue"
        ) from error


def _save_checkpoint(context: TrainingContext, folder: Path, metrics: EpochMetrics) -> None:
    dataset = context.dataset
    save_checkpoint(folder, context.eval_network, dataset.labels, metrics.to_json(), dataset.task)


def _save_state(context: TrainingContext, run: Path, position: Position) -> None:
    if context.accelerator.is_main_process:
        scaler = context.accelerator.scaler
        save_state(run, context.checkpointed, context.optimizer, scaler, position, context.dataset_key)
