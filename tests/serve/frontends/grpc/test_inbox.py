"""Tests of the inbox between grpc.aio and the engine."""

import asyncio
import threading
from collections.abc import Iterable

import pytest

from serve.engine.call import Call
from serve.frontends.grpc.inbox import Inbox

pytestmark = pytest.mark.anyio


class Echo:
    """A receiver that records its calls, and answers them with their own data, in another thread if `threaded`."""

    def __init__(self, *, threaded: bool) -> None:
        self.batches: list[list[bytes]] = []
        self._threaded = threaded

    def accept(self, calls: Iterable[Call]) -> None:
        batch = list(calls)
        self.batches.append([call.data for call in batch])
        if self._threaded:
            threading.Thread(target=self._answer, args=(batch,)).start()
        else:
            self._answer(batch)

    def _answer(self, calls: list[Call]) -> None:
        for call in calls:
            if call.data == b"bad":
                call.fail(ValueError("bad"))
            else:
                call.respond(call.data)


@pytest.mark.parametrize("threaded", [True, False])
async def test_calls_of_one_iteration_arrive_together(threaded: bool) -> None:
    """Calls that start in one iteration of the event loop are accepted at once; each gets its own result."""
    receiver = Echo(threaded=threaded)
    inbox = Inbox(receiver)  # type: ignore[arg-type]
    results = await asyncio.gather(*map(inbox.infer, (b"a", b"bad", b"c")), return_exceptions=True)
    assert receiver.batches == [[b"a", b"bad", b"c"]]
    assert (results[0], str(results[1]), results[2]) == (b"a", "bad", b"c")
    assert await inbox.infer(b"d") == b"d"


class Silent:
    """A receiver that records its calls and answers none."""

    def __init__(self) -> None:
        self.calls: list[Call] = []

    def accept(self, calls: Iterable[Call]) -> None:
        self.calls.extend(calls)


async def cancelled_call() -> Call:
    """Return a call whose client disconnected."""
    receiver = Silent()
    task = asyncio.create_task(Inbox(receiver).infer(b"a"))  # type: ignore[arg-type]
    await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    (call,) = receiver.calls
    return call


async def test_a_cancelled_call() -> None:
    """A call whose client disconnects is cancelled, and a late result is ignored."""
    call = await cancelled_call()
    assert call.is_cancelled
    call.respond(b"late")
    call.fail(ValueError("late"))


async def test_a_result_after_the_loop_is_closed() -> None:
    """A thread that finishes after the event loop was closed raises nothing."""
    call = await asyncio.to_thread(asyncio.run, cancelled_call())
    call.respond(b"late")
