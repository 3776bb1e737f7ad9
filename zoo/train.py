"""Training: epochs, what they measure, what is kept of them, and where to go on."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from threading import Event

import torch

from zoo.calibration import Calibration, calibrate
from zoo.checkpoint import read_checkpoint, save_checkpoint, save_metrics, start_run, write_epochs
from zoo.errors import InterruptedRunError
from zoo.evaluate import Evaluation, evaluate
from zoo.report import write_papers
from zoo.resume import Position, check_resumable, drop_state, interruptions, load_state, save_state
from zoo.session import Session, make_accelerator, on_features, prepare
from zoo.settings import TrainSettings
from zoo.steps import Step, steps_of_epoch, top_rate


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
    """Train a net, or tune a backbone, into the new folder `run`; `observe` is told of each step and epoch.

    With `resume`, go on with a run that stopped, to the weights that it would have had without stopping, bit for bit.

    Raises:
        ZooError: see its subclasses; nothing is written if the settings, the data or the device are at fault.
        TrainingError: the loss is no longer a number.
        InterruptedRunError: Ctrl-C.
    """
    started = time.perf_counter()
    accelerator = make_accelerator(settings.device)
    if resume:
        check_resumable(run, settings)
    with _own_generators(accelerator.device), interruptions() as interrupted:
        session = prepare(settings, accelerator)
        if settings.transfer is not None and settings.transfer.cached:
            session = on_features(session, run.parent / ".features")
        if not resume:
            start_run(run, settings, session.origin.licence, session.origin.url)
        position = load_state(run, session.state, session.optimizer, session.data_key) if resume else Position()
        best = _fit(session, run, position, observe or (lambda event: None), interrupted)
        test, calibration = _test_best(session, run)
        drop_state(run)
        fault = write_papers(run, session.result, session.pictures, test)
    seconds = time.perf_counter() - started
    precision = test.mean_average_precision
    return TrainResult(best, test.accuracy, calibration, seconds, session.data.skipped, precision, fault)


def _fit(session: Session, run: Path, position: Position, observe: Observer, interrupted: Event) -> EpochMetrics:
    """Train from `position` to the end."""
    while position.epoch <= session.settings.epochs:
        started = time.perf_counter()
        for step in steps_of_epoch(session, position.epoch, done=position.batch):
            position.losses.append(step.loss)
            position.batch = step.batch
            observe(step)
            _save_between(session, run, position, step, interrupted)
        metrics = _validate(session, position.epoch, train_loss=sum(position.losses) / len(position.losses))
        _save(session, run / "last", metrics)
        if all(metrics.rank > earlier.rank for earlier in _epochs(position)):
            _save(session, run / "best", metrics)
        seconds = round(time.perf_counter() - started, 3)
        line = {**metrics.to_json(), "lr": top_rate(session.optimizer), "seconds": seconds}
        position = Position(position.epoch + 1, history=[*position.history, line])
        write_epochs(run, position.history)
        save_state(run, session.state, session.optimizer, position, session.data_key)
        observe(metrics)
    return max(_epochs(position), key=lambda metrics: metrics.rank)


def _epochs(position: Position) -> list[EpochMetrics]:
    names = [each.name for each in fields(EpochMetrics)]
    return [EpochMetrics(**{name: line[name] for name in names if name in line}) for line in position.history]  # type: ignore[arg-type]


def _save_between(session: Session, run: Path, position: Position, step: Step, interrupted: Event) -> None:
    """Save the state after a step where that is due, or where someone wants to stop."""
    every, done = session.settings.checkpoint_every_steps, (step.epoch - 1) * step.batches + step.batch
    if interrupted.is_set() or (every and done % every == 0):
        save_state(run, session.state, session.optimizer, position, session.data_key)
    if interrupted.is_set():
        where = f"in epoch {step.epoch} after batch {step.batch} of {step.batches}"
        raise InterruptedRunError(f"stopped {where}; {run} is saved, and the same command with --resume goes on")


def _validate(session: Session, epoch: int, train_loss: float) -> EpochMetrics:
    val = session.data.val
    evaluation = evaluate(session.measured, val, session.rule)
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
    checkpoint = read_checkpoint(run / "best")
    checkpoint.load_into(session.result)
    val, test = (evaluate(session.measured, split, session.rule) for split in (session.data.val, session.data.test))
    calibration = calibrate(val.logits, val.targets, test.logits, test.targets)
    found = {f"test_{name}": value for name, value in test.scores.items()}
    save_metrics(checkpoint.folder, {**checkpoint.metrics, **found, **calibration.to_json()})
    return test, calibration


@contextmanager
def _own_generators(device: torch.device) -> Iterator[None]:
    """Give the caller's random generators back as they were."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield
