"""Wall time of each step of an export."""

import time
from collections.abc import Callable, Mapping

Progress = Callable[[str], None]


class StepTimer:
    """Reports each step to a callback as it begins, and measures its duration."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._starts: list[tuple[str, float]] = []

    def __call__(self, step: str) -> None:
        """Begin `step`, which ends the step before."""
        self._starts.append((step, time.perf_counter()))
        self._progress(step)

    @property
    def current(self) -> str:
        """The running step."""
        return self._starts[-1][0] if self._starts else "loading the network"

    def seconds(self) -> Mapping[str, float]:
        """Return the seconds of each step so far, including the running one."""
        ends = [*(start for _, start in self._starts[1:]), time.perf_counter()]
        return {step: end - start for (step, start), end in zip(self._starts, ends, strict=True)}
