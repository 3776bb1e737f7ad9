"""One inference request of a client, as a frontend hands it to the engine."""

from abc import ABC, abstractmethod
from collections.abc import Callable


class Call(ABC):
    """A serialised ModelInferRequest that waits for its response.

    A frontend derives a class that sends `respond` and `fail` to the client; one of them is called once, by any thread.
    Neither may block or raise: if the client is gone, they do nothing.

    Attributes:
        data: The serialised request; empty once it is no longer needed.
        is_cancelled: Whether the client is gone.
    """

    __slots__ = ("_on_cancel", "data", "is_cancelled")

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.is_cancelled = False
        self._on_cancel: Callable[[], None] | None = None

    @abstractmethod
    def respond(self, response: bytes) -> None:
        """Send a serialised ModelInferResponse to the client."""

    @abstractmethod
    def fail(self, error: Exception) -> None:
        """Send the error to the client, as a status."""

    def cancel(self) -> None:
        """Note that the client is gone: a request that still waits for its batch is dropped."""
        self.is_cancelled = True
        if self._on_cancel:
            self._on_cancel()

    def on_cancel(self, function: Callable[[], None]) -> None:
        """Call `function` when the client is gone, at once if it is already."""
        self._on_cancel = function
        if self.is_cancelled:
            function()
