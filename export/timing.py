"""How long each step of an export takes, told as it begins."""

import time
from collections.abc import Callable, Mapping

Progress = Callable[[str], None]


class Steps:
    """Call it with a step's name as the step begins."""

    def __init__(self, hear: Progress) -> None:
        self._hear = hear
        self._began: list[tuple[str, float]] = []

    def __call__(self, step: str) -> None:
        self._began.append((step, time.perf_counter()))
        self._hear(step)

    def seconds(self) -> Mapping[str, float]:
        """Of each step so far, the one that goes on included."""
        ends = [*(began for _, began in self._began[1:]), time.perf_counter()]
        return {step: end - began for (step, began), end in zip(self._began, ends, strict=True)}
