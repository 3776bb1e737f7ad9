"""A progress bar for a training run."""

import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from zoo.training.epoch import Step
from zoo.training.results import EpochMetrics

REFRESHES_PER_S = 4


class ProgressBar:
    """Shows epoch, loss, validation score, speed and remaining time on `console`, stderr by default.

    The bar appears at the first step. Only a few steps a second update it: updating rich at each step would cost a
    noticeable share of a small network's time.
    """

    def __init__(self, epochs: int, prefix: str = "", console: Console | None = None) -> None:
        self._epochs = epochs
        self._next_update_s = 0.0
        self._progress = Progress(
            TextColumn(f"{prefix}epoch {{task.fields[epoch]}}"),
            BarColumn(bar_width=20),
            TextColumn("loss {task.fields[loss]}  val {task.fields[accuracy]}  {task.fields[speed]} images/s"),
            TimeRemainingColumn(),
            console=console or Console(stderr=True),
            refresh_per_second=REFRESHES_PER_S,
        )
        self._task = self._progress.add_task("", total=None, epoch=f"0/{epochs}", loss="-", accuracy="-", speed="-")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._progress.live.is_started:
            self._progress.stop()

    def __call__(self, event: Step | EpochMetrics) -> None:
        if isinstance(event, EpochMetrics):
            self._progress.update(self._task, accuracy=f"{event.rank[0]:.1%}")
        elif event.batch == event.batches or time.monotonic() >= self._next_update_s:
            self._next_update_s = time.monotonic() + 1 / REFRESHES_PER_S
            self._show_step(event)

    def _show_step(self, step: Step) -> None:
        self._progress.start()
        self._progress.update(
            self._task,
            total=step.batches * self._epochs,
            completed=(step.epoch - 1) * step.batches + step.batch,
            epoch=f"{step.epoch}/{self._epochs}",
            loss=f"{step.loss:.3f}",
        )
        steps_per_s = self._progress.tasks[self._task].speed
        if steps_per_s:
            self._progress.update(self._task, speed=f"{steps_per_s * step.images:,.0f}")
