"""The learning rate range test: train while the learning rate rises exponentially, until the loss diverges.

After L. N. Smith, "Cyclical learning rates for training neural networks", WACV 2017, arXiv:1506.01186. The weights are
discarded and no run is written.
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
from zoo.training.context import TrainingContext, build_context
from zoo.training.device import make_accelerator
from zoo.training.epoch import steps_of_epoch

MIN_LR, MAX_LR, STEPS = 1e-6, 10.0, 140  # 20 steps per decade
SMOOTHING_STEPS = 3.0  # standard deviation of the Gaussian that smooths the losses in both directions
DIVERGENCE_FACTOR = 3.0  # the test ends once the mean of the last WINDOW losses is this multiple of the first mean
WINDOW = 5  # losses
DESCENT_SHARE = 0.1  # of the total fall; a smaller fall may be noise


@dataclass(frozen=True)
class LrCurve:
    """The result of a range test.

    Attributes:
        rates: The learning rate of each step.
        losses: The loss of each step.
        smoothed: The losses averaged over neighbouring steps.
        suggested: The rate at which the smoothed loss falls most steeply over the logarithm of the rate, after the
            descent has begun.
        diverges: The first rate after the lowest loss at which half of the fall is lost again. None: it never is.
    """

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    smoothed: tuple[float, ...]
    suggested: float
    diverges: float | None

    def png(self) -> bytes:
        """Return a plot of the losses, with `suggested` and `diverges` marked."""
        marks = {f"suggested: {self.suggested:.2g}": self.suggested}
        if self.diverges is not None:
            marks[f"diverges: {self.diverges:.2g}"] = self.diverges
        top = max(2 * self.smoothed[0], max(self.smoothed[: _lowest_step(self.smoothed) + 1]))
        lines = [
            Line("loss of a step", _points(self.rates, self.losses, top), is_faint=True),
            Line("smoothed", _points(self.rates, self.smoothed, top)),
        ]
        ticks = [10.0**power for power in range(-6, 2) if 10.0**power <= self.rates[-1] * 1.001]
        plot = Chart("Learning rate range test", "learning rate", "loss", lines, ticks, marks).draw()
        buffer = io.BytesIO()
        plot.save(buffer, "PNG")
        return buffer.getvalue()


class ExponentialLr(Scheduler):
    """Raises the learning rate from MIN_LR to MAX_LR in STEPS steps by equal factors; layer scales stay in effect."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        super().__init__(optimizer, "lr", t_in_epochs=False)
        self.step_update(0)

    def _get_lr(self, t: int) -> list[float]:
        return [lr_of_step(t)] * len(self.base_values)


def lr_of_step(step: int) -> float:
    """Return the learning rate of a step, counted from 0."""
    return float(MIN_LR * (MAX_LR / MIN_LR) ** (step / (STEPS - 1)))


def find_lr(settings: TrainSettings, on_step: Callable[[], None] = lambda: None) -> LrCurve:
    """Run the range test with the network and data of `settings`.

    All parameters that the schedule trains in any epoch are trained. `on_step` is called after each of at most
    STEPS steps.

    Raises:
        ZooError: See its subclasses and `train`.
        TrainingError: The loss never fell.
    """
    losses = []
    with tempfile.TemporaryDirectory() as folder:
        accelerator = make_accelerator(settings, Path(folder))
        with torch.random.fork_rng(devices=[accelerator.device] if accelerator.device.type == "cuda" else []):
            context = build_context(replace(settings, epochs=1), accelerator, Path(folder))
            for loss in _losses(replace(context, scheduler=ExponentialLr(context.optimizer))):
                losses.append(loss)
                on_step()
    return analyse(losses)


def analyse(losses: Sequence[float]) -> LrCurve:
    """Return the curve of a test with the given losses, one per step; the last one may be NaN.

    Raises:
        TrainingError: The loss never fell.
    """
    finite = list(itertools.takewhile(math.isfinite, losses))
    rates = [lr_of_step(step) for step in range(len(losses))]
    smoothed = smooth(finite) if finite else []
    lowest = _lowest_step(smoothed) if finite else 0
    if lowest == 0:
        raise TrainingError(
            f"the loss did not fall at any learning rate from {rates[0]:g} to {rates[-1]:g}; "
            "check the data, or the backbone's preprocessing"
        )
    start = _start_of_descent(smoothed, lowest)
    slopes = np.gradient(smoothed)[start : lowest + 1]  # steps are equidistant in the logarithm of the rate
    return LrCurve(
        tuple(rates[: len(finite)]),
        tuple(finite),
        tuple(smoothed),
        suggested=rates[start + int(np.argmin(slopes))],
        diverges=_divergence(rates, smoothed, lowest),
    )


def smooth(losses: Sequence[float]) -> list[float]:
    """Return Gaussian means over neighbouring steps; being symmetric, they do not delay a slope."""
    steps = np.arange(len(losses))
    weights = np.exp(-0.5 * ((steps[:, None] - steps[None, :]) / SMOOTHING_STEPS) ** 2)
    means: Any = weights @ np.array(losses) / weights.sum(axis=1)
    return [float(mean) for mean in means]


def _losses(context: TrainingContext) -> Iterator[float]:
    """Yield the loss of each step until the loss diverges; NaN is the last one if it is no longer finite."""
    losses: list[float] = []
    try:
        steps = (step for epoch in itertools.count(1) for step in steps_of_epoch(context, epoch, completed=0))
        for step in itertools.islice(steps, STEPS):
            losses.append(step.loss)
            yield step.loss
            if len(losses) >= WINDOW and np.mean(losses[-WINDOW:]) > DIVERGENCE_FACTOR * np.mean(losses[:WINDOW]):
                return
    except TrainingError:
        yield math.nan


def _lowest_step(smoothed: Sequence[float]) -> int:
    return int(np.argmin(smoothed))


def _start_of_descent(smoothed: Sequence[float], lowest: int) -> int:
    """Return the step where the fall to the lowest loss starts; steep parts before it are noise of the batches."""
    level = smoothed[0] - DESCENT_SHARE * (smoothed[0] - smoothed[lowest])
    return next(step for step in range(lowest, -1, -1) if step == 0 or smoothed[step - 1] > level)


def _divergence(rates: Sequence[float], smoothed: Sequence[float], lowest: int) -> float | None:
    """Return the first rate at which half of the fall is lost, at the latest the one whose loss was not finite."""
    limit = (smoothed[0] + smoothed[lowest]) / 2
    rates_above = (rate for rate, loss in zip(rates[lowest:], smoothed[lowest:], strict=False) if loss > limit)
    rate_of_nan = rates[len(smoothed)] if len(rates) > len(smoothed) else None
    return next(rates_above, rate_of_nan)


def _points(rates: Sequence[float], losses: Sequence[float], top: float) -> list[tuple[float, float]]:
    """Return the points of a curve, with losses limited to `top`."""
    return [(rate, min(loss, top)) for rate, loss in zip(rates, losses, strict=True)]
