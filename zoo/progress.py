"""A training run as a line on the terminal."""

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from zoo.steps import Step
from zoo.train import EpochMetrics


class ProgressBar:
    """Shows a run's epoch, loss, validation accuracy, speed and time left on stderr from its first step on."""

    def __init__(self, epochs: int, prefix: str = "") -> None:
        self._epochs = epochs
        self._progress = Progress(
            TextColumn(f"{prefix}epoch {{task.fields[epoch]}}"),
            BarColumn(bar_width=20),
            TextColumn("loss {task.fields[loss]}  val {task.fields[accuracy]}  {task.fields[speed]} images/s"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
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
            return
        self._progress.start()
        steps_per_s = self._progress.tasks[self._task].speed
        self._progress.update(
            self._task,
            total=event.batches * self._epochs,
            advance=1,
            epoch=f"{event.epoch}/{self._epochs}",
            loss=f"{event.loss:.3f}",
            speed=f"{steps_per_s * event.images:,.0f}" if steps_per_s else "-",
        )
