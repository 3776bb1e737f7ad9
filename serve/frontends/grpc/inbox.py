"""Passes inference requests from grpc.aio to the engine, and its responses back.

The event loop collects the calls that arrive in one of its iterations, so that they may share a batch. Responses of
other threads wake the loop once for all that are ready.
"""

import asyncio
import contextlib
import threading
from collections import deque

from serve.engine.call import Call
from serve.engine.receiver import Receiver

Result = bytes | Exception


class AioCall(Call):
    """A call of grpc.aio: a future of the event loop receives its response."""

    __slots__ = ("_inbox", "response")

    def __init__(self, data: bytes, inbox: "Inbox") -> None:
        super().__init__(data)
        self._inbox = inbox
        self.response: asyncio.Future[bytes] = inbox.loop.create_future()

    def respond(self, response: bytes) -> None:
        """Complete the call with a response."""
        self._inbox.deliver(self, response)

    def fail(self, error: Exception) -> None:
        """Complete the call with an error."""
        self._inbox.deliver(self, error)


class Inbox:
    """Calls of one event loop, which must be running when it is created."""

    def __init__(self, receiver: Receiver) -> None:
        self.loop = asyncio.get_running_loop()
        self._receiver = receiver
        self._arrived: list[Call] = []
        self._completed: deque[tuple[AioCall, Result]] = deque()
        self._is_delivery_scheduled = False
        self._thread = threading.get_ident()

    async def infer(self, data: bytes) -> bytes:
        """Return the response to a serialised ModelInferRequest. Raises: the error that the engine found."""
        call = AioCall(data, self)
        if not self._arrived:
            self.loop.call_soon(self._accept)
        self._arrived.append(call)
        try:
            return await call.response
        except asyncio.CancelledError:
            call.cancel()
            raise

    def deliver(self, call: AioCall, result: Result) -> None:
        """Complete a call, from any thread."""
        if threading.get_ident() == self._thread:
            _complete(call, result)
            return
        self._completed.append((call, result))
        if not self._is_delivery_scheduled:
            self._is_delivery_scheduled = True
            with contextlib.suppress(RuntimeError):  # the loop was closed without waiting for this thread
                self.loop.call_soon_threadsafe(self._deliver)

    def _accept(self) -> None:
        calls, self._arrived = self._arrived, []
        self._receiver.accept(calls)

    def _deliver(self) -> None:
        self._is_delivery_scheduled = False  # first: results that are added from now on schedule another delivery
        while self._completed:
            _complete(*self._completed.popleft())


def _complete(call: AioCall, result: Result) -> None:
    if call.response.done():  # the client is gone
        return
    if isinstance(result, Exception):
        call.response.set_exception(result)
    else:
        call.response.set_result(result)
