"""A training run as a line on the terminal."""

import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from zoo.training.epoch import Step
from zoo.training.trainer import EpochMetrics

REFRESHES_PER_S = 4


class ProgressBar:
    """Shows a run's epoch, loss, validation accuracy, speed and time left on `console` from its first step on.

    It looks at few of the steps, however short they are: telling rich of each would take a small network's time.
    """

    def __init__(self, epochs: int, prefix: str = "", console: Console | None = None) -> None:
        self._epochs = epochs
        self._due_s = 0.0
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
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._progress.live.is_started:
            self._progress.stop()

    def __call__(self, event: Step | EpochMetrics) -> None:
        if isinstance(event, EpochMetrics):
            self._progress.update(self._task, accuracy=f"{event.rank[0]:.1%}")
        elif event.batch == event.batches or time.monotonic() >= self._due_s:
            self._due_s = time.monotonic() + 1 / REFRESHES_PER_S
            self._show(event)

    def _show(self, step: Step) -> None:
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
