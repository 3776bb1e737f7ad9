"""Training: epochs, what they measure, what is kept of them, and where to go on."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from threading import Event

import torch
from safetensors import SafetensorError

from zoo.data.splits import Split
from zoo.errors import InterruptedRunError, TrainingError
from zoo.evaluation.calibration import Calibration, calibrate
from zoo.evaluation.evaluate import Evaluation, evaluate
from zoo.report import write_papers
from zoo.runs.checkpoint import read_checkpoint, save_checkpoint, save_metrics, start_run, write_epochs
from zoo.settings import TrainSettings
from zoo.training.context import Session, batches_of, make_accelerator, prepare
from zoo.training.distributed import all_reduce_any, broadcast_buffers
from zoo.training.epoch import Step, steps_of_epoch, top_rate
from zoo.training.resume import Position, check_resumable, drop_state, interruptions, load_state, save_state
from zoo.training.trackers import trackers


@dataclass(frozen=True)
class EpochMetrics:
    """What one epoch measured; `train_loss` is the mean over its steps, with label smoothing.

    The mean average precision and macro-F1 are those of multi-label data, None for others: see `Evaluation`.
    """

    epoch: int
    train_loss: float
    val_loss: float
    val_accuracy: float
    val_mean_average_precision: float | None = None
    val_macro_f1: float | None = None

    @property
    def rank(self) -> tuple[float, float]:
        """Accuracy, or the mean average precision, on the validation split; among equals, the lower loss is better."""
        precision = self.val_mean_average_precision
        return (self.val_accuracy if precision is None else precision, -self.val_loss)

    def to_json(self) -> dict[str, float]:
        """Plain JSON values by name, without those that were not measured."""
        return {name: value for name, value in asdict(self).items() if value is not None}


@dataclass(frozen=True)
class TrainResult:
    """The best epoch, and its weights' accuracy and calibration on the test split.

    `skipped` names bad images that were left out; `report_fault` says why the run has no report, if it has none.
    The mean average precision is that of multi-label data, None for others.
    """

    best: EpochMetrics
    test_accuracy: float
    calibration: Calibration
    seconds: float
    skipped: tuple[str, ...] = ()
    test_mean_average_precision: float | None = None
    report_fault: str = ""


Observer = Callable[[Step | EpochMetrics], None]


def train(settings: TrainSettings, run: Path, observe: Observer | None = None, *, resume: bool = False) -> TrainResult:
    """Train a network, or tune a backbone, into the new folder `run`; `observe` is told of each step and epoch.

    With `resume`, go on with a run that stopped, to the weights that it would have had without stopping, bit for bit.
    Started in several processes, by torchrun or `accelerate launch`, they train one network on one batch together; the main
    process alone writes and is the one that observes.

    Raises:
        ZooError: see its subclasses; nothing is written if the settings, the data or the device are at fault.
        TrainingError: the loss is no longer a number.
        InterruptedRunError: Ctrl-C.
    """
    started = time.perf_counter()
    accelerator = make_accelerator(settings, run)
    observe = observe if observe and accelerator.is_main_process else _ignore
    if resume:
        check_resumable(run, settings)
    with _own_generators(accelerator.device), interruptions() as interrupted:
        session = prepare(settings, accelerator, run.parent / ".features")
        if not resume and accelerator.is_main_process:
            start_run(run, settings, session.origin.licence, session.origin.url)
        position = _load(session, run) if resume else Position()
        accelerator.wait_for_everyone()  # all have read before the main one writes
        with trackers(accelerator, settings):
            best = _fit(session, run, position, observe, interrupted)
        test, calibration = _test_best(session, run)
        fault = write_papers(run, session.result, session.images, test) if accelerator.is_main_process else ""
    seconds = time.perf_counter() - started
    precision = test.mean_average_precision
    return TrainResult(best, test.accuracy, calibration, seconds, session.data.skipped, precision, fault)


def _ignore(event: Step | EpochMetrics) -> None:
    pass


def _fit(session: Session, run: Path, position: Position, observe: Observer, interrupted: Event) -> EpochMetrics:
    """Train from `position` to the end."""
    while not _ended(session.settings, position):
        started = time.perf_counter()
        for step in steps_of_epoch(session, position.epoch, done=position.batch):
            position.losses.append(step.loss)
            position.batch = step.batch
            observe(step)
            _track(session, step)
            _save_between(session, run, position, step, interrupted)
        metrics = _validate(session, position.epoch, train_loss=sum(position.losses) / len(position.losses))
        position = _save_epoch(session, run, position, metrics, round(time.perf_counter() - started, 3))
        observe(metrics)
        _track(session, metrics)
    return max(_epochs(position), key=lambda metrics: metrics.rank)


def _ended(settings: TrainSettings, position: Position) -> bool:
    """Whether all epochs are done, or none of the last `patience` ones was the best so far."""
    ranks = [metrics.rank for metrics in _epochs(position)]
    waited = len(ranks) - 1 - ranks.index(max(ranks)) if ranks else 0
    return position.epoch > settings.epochs or 0 < settings.patience <= waited


def _epochs(position: Position) -> list[EpochMetrics]:
    names = [each.name for each in fields(EpochMetrics)]
    return [EpochMetrics(**{name: line[name] for name in names if name in line}) for line in position.history]  # type: ignore[arg-type]


def _track(session: Session, event: Step | EpochMetrics) -> None:
    """Tell the trackers, by the number of the step."""
    if not session.accelerator.trackers:
        return
    if isinstance(event, Step):
        values = {"loss": event.loss, "lr": event.lr}
        session.accelerator.log(values, step=(event.epoch - 1) * event.batches + event.batch)
    else:
        values = {name: value for name, value in event.to_json().items() if name != "epoch"}
        session.accelerator.log(values, step=event.epoch * batches_of(session.settings, session.data))


def _save_between(session: Session, run: Path, position: Position, step: Step, interrupted: Event) -> None:
    """Save the state after a step where that is due, or where someone wants to stop."""
    every, done = session.settings.checkpoint_every_steps, (step.epoch - 1) * step.batches + step.batch
    stop = all_reduce_any(session.accelerator, interrupted.is_set())
    if stop or (every and done % every == 0):
        with _saving(run):
            _save_state(session, run, position)
    if stop:
        where = f"in epoch {step.epoch} after batch {step.batch} of {step.batches}"
        raise InterruptedRunError(f"stopped {where}; {run} is saved, and the same command with --resume goes on")


def _save_epoch(session: Session, run: Path, position: Position, metrics: EpochMetrics, seconds: float) -> Position:
    """Save what an epoch gave; where the next one begins."""
    line = {**metrics.to_json(), "lr": top_rate(session.optimizer), "seconds": seconds}
    after = Position(position.epoch + 1, history=[*position.history, line])
    if session.accelerator.is_main_process:
        with _saving(run):
            if not session.on_features or _ended(session.settings, after):  # a head's state is all that changes
                _save(session, run / "last", metrics)
            if all(metrics.rank > earlier.rank for earlier in _epochs(position)):
                _save(session, run / "best", metrics)
            write_epochs(run, after.history)
            _save_state(session, run, after)
    return after


def _save_state(session: Session, run: Path, position: Position) -> None:
    if session.accelerator.is_main_process:
        parts = (session.state, session.optimizer, session.accelerator.scaler)
        save_state(run, *parts, position, session.data_key)


def _load(session: Session, run: Path) -> Position:
    return load_state(run, session.state, session.optimizer, session.accelerator.scaler, session.data_key)


@contextmanager
def _saving(run: Path) -> Iterator[None]:
    """Say that what was saved before is whole where the disk is full or gone."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise TrainingError(
            f"{run} could not be saved: {error}; what was saved before is whole: make room, and the same command "
            "with --resume goes on from there"
        ) from error


def _validate(session: Session, epoch: int, train_loss: float) -> EpochMetrics:
    broadcast_buffers(session.accelerator, session.state)
    evaluation = _measure(session, session.data.val)
    return EpochMetrics(
        epoch,
        train_loss,
        evaluation.loss,
        evaluation.accuracy,
        evaluation.mean_average_precision,
        evaluation.macro_f1,
    )


def _save(session: Session, folder: Path, metrics: EpochMetrics) -> None:
    save_checkpoint(folder, session.result, session.data.labels, metrics.to_json(), session.data.task)


def _test_best(session: Session, run: Path) -> tuple[Evaluation, Calibration]:
    """How good the best weights are on the test split, which the run looks at only here; noted in best/metrics.json.

    The temperature of their probabilities is fitted on the validation split.
    """
    session.accelerator.wait_for_everyone()
    checkpoint = read_checkpoint(run / "best")
    checkpoint.load_into(session.result)
    val, test = (_measure(session, split) for split in (session.data.val, session.data.test))
    calibration = calibrate(val.logits, val.targets, test.logits, test.targets)
    found = {f"test_{name}": value for name, value in test.scores.items()}
    if session.accelerator.is_main_process:
        with _saving(run):
            save_metrics(checkpoint.folder, {**checkpoint.metrics, **found, **calibration.to_json()})
        drop_state(run)
    return test, calibration


def _measure(session: Session, split: Split) -> Evaluation:
    return evaluate(session.measured, split, session.rule, accelerator=session.accelerator)


@contextmanager
def _own_generators(device: torch.device) -> Iterator[None]:
    """Give the caller's random generators back as they were."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield
