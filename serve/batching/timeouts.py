"""Calls functions when a time has passed, in one thread that starts with the first timeout."""

import heapq
import itertools
import threading
import time
from collections.abc import Callable


class Timeouts:
    """Pending timeouts. A function that is no longer needed is called nevertheless, and must find that out itself."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._heap: list[tuple[int, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closed = False

    def add(self, timeout_us: int, function: Callable[[], None]) -> None:
        """Call `function` in `timeout_us` microseconds."""
        due_ns = time.monotonic_ns() + timeout_us * 1000
        with self._changed:
            heapq.heappush(self._heap, (due_ns, next(self._order), function))
            self._changed.notify()
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                self._thread.start()

    def close(self) -> None:
        """End the thread; pending functions are not called any more."""
        with self._changed:
            self._closed = True
            self._changed.notify()

    def _run(self) -> None:
        while (function := self._wait_for_next()) is not None:
            function()

    def _wait_for_next(self) -> Callable[[], None] | None:
        with self._changed:
            while not self._closed:
                left_s = (self._heap[0][0] - time.monotonic_ns()) / 1e9 if self._heap else None
                if left_s is not None and left_s <= 0:
                    return heapq.heappop(self._heap)[2]
                self._changed.wait(left_s)
            return None
