"""The learning rate range test: steps at a rate that rises exponentially, until the loss blows up.

After L. N. Smith, "Cyclical learning rates for training neural networks", WACV 2017, arXiv:1506.01186. Nothing is
kept: neither weights nor a run.
"""

import io
import itertools
import math
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from timm.scheduler.scheduler import Scheduler

from zoo.errors import TrainingError
from zoo.report.plot import Chart, Line
from zoo.settings import TrainSettings
from zoo.training.context import Session, make_accelerator, prepare
from zoo.training.epoch import Step, steps_of_epoch

LOWEST, HIGHEST, STEPS = 1e-6, 10.0, 140  # 20 steps a decade
SMOOTHING = 3.0  # steps: the standard deviation of the Gaussian that smooths the losses, ahead and back
BLOWN_UP = 3.0  # the test ends where the mean of the last losses is this many times the first one
RECENT = 5  # losses in that mean
BEGUN = 0.1  # of the whole fall: so much of it is more than noise


@dataclass(frozen=True)
class LrCurve:
    """The losses of the steps and what they say; `smoothed` is their mean over neighbouring steps.

    `suggested` is the rate at which the smoothed loss falls most steeply over the rate's logarithm, once the fall has
    begun. `diverges` is the first rate after the lowest loss at which half of what had been won is lost again, None if
    that never came.
    """

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    smoothed: tuple[float, ...]
    suggested: float
    diverges: float | None

    def png(self) -> bytes:
        """The curve as an image."""
        marks = {f"suggested: {self.suggested:.2g}": self.suggested}
        if self.diverges is not None:
            marks[f"diverges: {self.diverges:.2g}"] = self.diverges
        top = max(2 * self.smoothed[0], max(self.smoothed[: _lowest(self.smoothed) + 1]))
        lines = [
            Line("loss of a step", _below(top, self.rates, self.losses), is_faint=True),
            Line("smoothed", _below(top, self.rates, self.smoothed)),
        ]
        ticks = [10.0**power for power in range(-6, 2) if 10.0**power <= self.rates[-1] * 1.001]
        drawn = Chart("Learning rate range test", "learning rate", "loss", lines, ticks, marks).draw()
        data = io.BytesIO()
        drawn.save(data, "PNG")
        return data.getvalue()


class RisingRate(Scheduler):
    """LOWEST at the first step, and HIGHEST at the last, by equal factors; a layer's own scale is kept."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        super().__init__(optimizer, "lr", t_in_epochs=False)
        self.step_update(0)

    def _get_lr(self, t: int) -> list[float]:
        return [rate_of(t)] * len(self.base_values)


def rate_of(step: int) -> float:
    """The rate of a step, counted from 0."""
    return float(LOWEST * (HIGHEST / LOWEST) ** (step / (STEPS - 1)))


def find_lr(settings: TrainSettings, watch: Callable[[], None] = lambda: None) -> LrCurve:
    """Measure the losses of the network and the data of `settings`, all that learns in the run's last epoch learning.

    `watch` is called after each of up to STEPS steps.

    Raises:
        ZooError: see its subclasses, as `train`.
        TrainingError: the loss never fell.
    """
    with tempfile.TemporaryDirectory() as folder:
        accelerator = make_accelerator(settings, Path(folder))
        with torch.random.fork_rng(devices=[accelerator.device] if accelerator.device.type == "cuda" else []):
            session = prepare(replace(settings, epochs=1), accelerator, Path(folder))
            return _find(session, watch)


def _find(session: Session, watch: Callable[[], None]) -> LrCurve:
    losses = []
    for loss in _losses(replace(session, scheduler=RisingRate(session.optimizer))):
        losses.append(loss)
        watch()
    return judge(losses)


def judge(losses: Sequence[float]) -> LrCurve:
    """What the losses of the first steps of a test say.

    Raises:
        TrainingError: the loss never fell.
    """
    finite = list(itertools.takewhile(math.isfinite, losses))
    rates = [rate_of(step) for step in range(len(losses))]
    smoothed = smooth(finite) if finite else []
    lowest = _lowest(smoothed) if finite else 0
    if lowest == 0:
        raise TrainingError(
            f"the loss did not fall at any learning rate from {rates[0]:g} to {rates[-1]:g}; "
            "look at the data, or at the backbone's preprocessing"
        )
    begin = _descent(smoothed, lowest)
    slopes = np.gradient(smoothed)[begin : lowest + 1]  # the steps are even in the rate's logarithm
    return LrCurve(
        tuple(rates[: len(finite)]),
        tuple(finite),
        tuple(smoothed),
        suggested=rates[begin + int(np.argmin(slopes))],
        diverges=_divergence(rates, smoothed, lowest),
    )


def smooth(losses: Sequence[float]) -> list[float]:
    """The mean over neighbouring steps by a Gaussian's weights, which moves no slope to a later step."""
    steps = np.arange(len(losses))
    weights = np.exp(-0.5 * ((steps[:, None] - steps[None, :]) / SMOOTHING) ** 2)
    means: Any = weights @ np.array(losses) / weights.sum(axis=1)
    return [float(mean) for mean in means]


def _losses(session: Session) -> Iterator[float]:
    """The loss of each step until the loss blows up, or is no number: then that is the last one."""
    done: list[float] = []
    try:
        for step in itertools.islice(_steps(session), STEPS):
            done.append(step.loss)
            yield step.loss
            if len(done) >= RECENT and np.mean(done[-RECENT:]) > BLOWN_UP * np.mean(done[:RECENT]):
                return
    except TrainingError:
        yield math.nan


def _steps(session: Session) -> Iterator[Step]:
    for epoch in itertools.count(1):
        yield from steps_of_epoch(session, epoch, done=0)


def _lowest(smoothed: Sequence[float]) -> int:
    return int(np.argmin(smoothed))


def _descent(smoothed: Sequence[float], lowest: int) -> int:
    """Where the fall to the lowest loss begins: a steep piece before that is the batches' noise."""
    level = smoothed[0] - BEGUN * (smoothed[0] - smoothed[lowest])
    return next(step for step in range(lowest, -1, -1) if step == 0 or smoothed[step - 1] > level)


def _divergence(rates: Sequence[float], smoothed: Sequence[float], lowest: int) -> float | None:
    """The first rate at which half of the fall is lost; where a loss was no number, the rate of that step at latest."""
    limit = (smoothed[0] + smoothed[lowest]) / 2
    lost = (rate for rate, loss in zip(rates[lowest:], smoothed[lowest:], strict=False) if loss > limit)
    broken = rates[len(smoothed)] if len(rates) > len(smoothed) else None
    return next(lost, broken)


def _below(top: float, rates: Sequence[float], losses: Sequence[float]) -> list[tuple[float, float]]:
    return [(rate, min(loss, top)) for rate, loss in zip(rates, losses, strict=True)]
