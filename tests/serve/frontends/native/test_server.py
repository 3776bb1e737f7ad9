"""Tests of the frontend on pygrpc-native, with a receiver that answers nothing by itself."""

import queue
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from serve.engine.call import Call
from serve.errors import UnknownModelError
from serve.frontends.native.server import PATH, NativeServer

LIMIT_BYTES, TIMEOUT_S = 1000, 10


class Recorder:
    """A receiver that puts its calls into a queue."""

    def __init__(self) -> None:
        self.calls: queue.Queue[Call] = queue.Queue()

    def accept(self, calls: Iterable[Call]) -> None:
        for call in calls:
            self.calls.put(call)

    def next(self) -> Call:
        return self.calls.get(timeout=TIMEOUT_S)


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def server(recorder: Recorder, tmp_path: Path) -> Iterator[NativeServer]:
    server = NativeServer(recorder, LIMIT_BYTES)  # type: ignore[arg-type]
    server.port = server.bind("127.0.0.1:0", str(tmp_path / "nobody"))  # type: ignore[attr-defined]
    server.start()
    yield server
    server.stop(0)


@pytest.fixture
def infer(server: NativeServer) -> Iterator[Any]:
    with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:  # type: ignore[attr-defined]
        yield channel.unary_unary(PATH)


def test_response_and_status(infer: Any, recorder: Recorder) -> None:
    """A response reaches its client, and an error becomes a status."""
    answered, failed = infer.future(b"1", timeout=TIMEOUT_S), infer.future(b"2", timeout=TIMEOUT_S)
    for call in (recorder.next(), recorder.next()):
        if call.data == b"1":
            call.respond(b"response")
        else:
            call.fail(UnknownModelError("there is no model 'ü'."))
    assert answered.result() == b"response"
    with pytest.raises(grpc.RpcError):
        failed.result()
    assert (failed.code(), failed.details()) == (grpc.StatusCode.NOT_FOUND, "there is no model 'ü'.")


def test_a_message_over_the_limit(infer: Any, recorder: Recorder) -> None:
    """A message over the limit is RESOURCE_EXHAUSTED, with both sizes; one of exactly the limit is accepted."""
    with pytest.raises(grpc.RpcError) as caught:
        infer(bytes(LIMIT_BYTES + 1), timeout=TIMEOUT_S)
    assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert caught.value.details() == "the request has 1001 bytes; this server accepts 1000."
    largest = infer.future(bytes(LIMIT_BYTES), timeout=TIMEOUT_S)
    recorder.next().respond(b"response")
    assert largest.result() == b"response"


@pytest.mark.parametrize("way", ["cancel", "deadline"])
def test_a_client_that_is_gone(infer: Any, recorder: Recorder, way: str) -> None:
    """A call is cancelled when its client cancels, or when its deadline passes; a late response does nothing."""
    future = infer.future(b"1", timeout=0.2 if way == "deadline" else TIMEOUT_S)
    call, is_gone = recorder.next(), threading.Event()
    call.on_cancel(is_gone.set)
    if way == "cancel":
        future.cancel()
    assert is_gone.wait(TIMEOUT_S)
    call.respond(b"late")
    call.fail(ValueError("late"))


def test_stopping_waits_for_calls(server: NativeServer, infer: Any, recorder: Recorder) -> None:
    """Stopping waits for calls in flight, but not longer than the grace period."""
    future = infer.future(b"1", timeout=TIMEOUT_S)
    call = recorder.next()
    stopping = threading.Thread(target=server.stop, args=(TIMEOUT_S,))
    stopping.start()
    time.sleep(0.05)
    assert stopping.is_alive()
    call.respond(b"response")
    stopping.join()
    assert future.result() == b"response"


def test_the_grace_period_ends(server: NativeServer, infer: Any, recorder: Recorder) -> None:
    """A call that is not answered within the grace period fails."""
    future = infer.future(b"1", timeout=TIMEOUT_S)
    recorder.next()
    start_s = time.monotonic()
    server.stop(0.05)
    assert time.monotonic() - start_s < 5
    with pytest.raises(grpc.RpcError):
        future.result()
