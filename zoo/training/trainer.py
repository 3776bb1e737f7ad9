"""Train a network, from the settings to a finished run.

settings           zoo/settings.py      checked one by one and against each other
device             device.py            the accelerator: device, precision, processes
dataset, network   build.py             a network that accepts the dataset's images, with its initial weights
optimiser          optim.py             parameter groups and the learning rate schedule
context            context.py           all of the above in one object
epochs             epoch.py             one optimiser step per batch
evaluation         zoo/evaluation/      validation metrics after each epoch, test metrics at the end
checkpoint         saving.py            last/, best/, metrics.jsonl; RUN/state, from which resume.py continues
report             zoo/report/          report.html and README.md
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event

import torch

from zoo.data.splits import Split
from zoo.errors import SettingsError
from zoo.evaluation.calibration import Calibration, calibrate
from zoo.evaluation.evaluate import Evaluation, evaluate
from zoo.report import write_report_and_card
from zoo.runs.checkpoint import read_checkpoint, save_metrics
from zoo.settings import TrainSettings, TuneSettings
from zoo.training.context import TrainingContext, build_context, steps_per_epoch
from zoo.training.device import make_accelerator
from zoo.training.distributed import broadcast_buffers
from zoo.training.epoch import Step, steps_of_epoch
from zoo.training.results import EpochMetrics, TrainResult
from zoo.training.resume import Position, check_resumable, deferred_interrupt, delete_state
from zoo.training.saving import (
    completed_epochs,
    explain_write_errors,
    is_finished,
    open_run,
    save_after_epoch,
    save_after_step,
)
from zoo.training.trackers import log_metrics, trackers

Observer = Callable[[Step | EpochMetrics], None]


def train(
    settings: TrainSettings, run: Path | str, observe: Observer | None = None, *, resume: bool = False
) -> TrainResult:
    """Train a network from scratch or tune a backbone, into the new folder `run`.

    Args:
        settings: Everything that determines the weights.
        run: Folder of the run; must be new or empty, unless `resume` is set.
        observe: Called with each step and with each epoch's metrics.
        resume: Continue a stopped run, to the weights of an uninterrupted one bit for bit.

    Started in several processes, by torchrun or `accelerate launch`, the processes train one network on shards of each
    batch; only the main process writes and calls `observe`.

    Raises:
        ZooError: See its subclasses; invalid settings, data or devices are detected before anything is written.
        TrainingError: The loss is infinite or not a number, or a file could not be written.
        InterruptedRunError: Ctrl-C; the run's state is saved.
    """
    run = Path(run)
    started = time.perf_counter()
    accelerator = make_accelerator(settings, run)
    if observe is None or not accelerator.is_main_process:
        observe = _ignore
    if resume:
        check_resumable(run, settings)
    with _preserved_random_state(accelerator.device), deferred_interrupt() as interrupted:
        context = build_context(settings, accelerator, run.parent / ".features")
        position = open_run(context, run, resume=resume)
        with trackers(accelerator, settings):
            best = _train_epochs(context, run, position, observe, interrupted)
        test, calibration = _evaluate_best(context, run)
        report_error = ""
        if accelerator.is_main_process:
            report_error = write_report_and_card(run, context.eval_network, context.dataset, test)
    return TrainResult(
        best=best,
        test_accuracy=test.accuracy,
        calibration=calibration,
        seconds=time.perf_counter() - started,
        skipped=context.dataset.skipped,
        test_mean_average_precision=test.mean_average_precision,
        report_error=report_error,
    )


def tune(
    settings: TuneSettings, run: Path | str, observe: Observer | None = None, *, resume: bool = False
) -> TrainResult:
    """Fine-tune a pretrained backbone under a new head; as `train`, with settings that have a `transfer`.

    Raises:
        SettingsError: `settings.transfer` is None.
        ZooError: See `train`.
    """
    if settings.transfer is None:
        raise SettingsError("transfer must be set to tune a backbone; got None")
    return train(settings, run, observe, resume=resume)


def _ignore(event: Step | EpochMetrics) -> None:
    pass


def _train_epochs(
    context: TrainingContext, run: Path, position: Position, observe: Observer, interrupted: Event
) -> EpochMetrics:
    """Train from `position` to the end, and save after steps and epochs; return the best epoch."""
    while not is_finished(context.settings, position):
        started = time.perf_counter()
        for step in steps_of_epoch(context, position.epoch, completed=position.batch):
            position.losses.append(step.loss)
            position.batch = step.batch
            observe(step)
            _log_step(context, step)
            save_after_step(context, run, position, step, interrupted)
        metrics = _validate(context, position.epoch, train_loss=sum(position.losses) / len(position.losses))
        position = save_after_epoch(context, run, position, metrics, round(time.perf_counter() - started, 3))
        observe(metrics)
        _log_epoch(context, metrics)
    return max(completed_epochs(position), key=lambda metrics: metrics.rank)


def _log_step(context: TrainingContext, step: Step) -> None:
    step_number = (step.epoch - 1) * step.batches + step.batch
    log_metrics(context.accelerator, {"loss": step.loss, "lr": step.lr}, step_number)


def _log_epoch(context: TrainingContext, metrics: EpochMetrics) -> None:
    values = {name: value for name, value in metrics.to_json().items() if name != "epoch"}
    log_metrics(context.accelerator, values, metrics.epoch * steps_per_epoch(context.settings, context.inputs))


def _validate(context: TrainingContext, epoch: int, train_loss: float) -> EpochMetrics:
    broadcast_buffers(context.accelerator, context.checkpointed)
    evaluation = _evaluate(context, context.inputs.val)
    return EpochMetrics(
        epoch,
        train_loss,
        evaluation.loss,
        evaluation.accuracy,
        evaluation.mean_average_precision,
        evaluation.macro_f1,
    )


def _evaluate_best(context: TrainingContext, run: Path) -> tuple[Evaluation, Calibration]:
    """Evaluate the best checkpoint on the test split, add the result to best/metrics.json and delete the state.

    This is the run's only use of the test split. The temperature of the calibration is fitted on the validation split.
    """
    context.accelerator.wait_for_everyone()
    checkpoint = read_checkpoint(run / "best")
    checkpoint.load_into(context.eval_network)
    val, test = (_evaluate(context, split) for split in (context.inputs.val, context.inputs.test))
    calibration = calibrate(val.logits, val.targets, test.logits, test.targets)
    test_scores = {f"test_{name}": value for name, value in test.scores.items()}
    if context.accelerator.is_main_process:
        with explain_write_errors(run):
            save_metrics(checkpoint.folder, {**checkpoint.metrics, **test_scores, **calibration.to_json()})
        delete_state(run)
    return test, calibration


def _evaluate(context: TrainingContext, split: Split) -> Evaluation:
    return evaluate(context.eval_module, split, context.input_rule, accelerator=context.accelerator)


@contextmanager
def _preserved_random_state(device: torch.device) -> Iterator[None]:
    """Restore the caller's random generators afterwards."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield
