"""Serves ModelInfer on pygrpc-native, and passes every other RPC on to a grpcio server behind it.

One thread receives the calls that have arrived, all at once, hands them to the engine, and runs cheap batches. HTTP/2
and the gRPC protocol run in threads of Rust, which need no interpreter lock.
"""

import logging
import threading
import time

import grpc
from pygrpc_native import EVENT_CALL, NativeGrpcFront

from serve.engine.call import Call
from serve.engine.receiver import Receiver
from serve.frontends.status import status

log = logging.getLogger(__name__)
PATH, MESSAGE = "/inference.GRPCInferenceService/ModelInfer", "ModelInferRequest"
MAX_CALLS_AT_ONCE = 256
IO_THREADS = 1
POLL_S = 0.01


class NativeCall(Call):
    """A call of pygrpc-native, which is answered by its number."""

    __slots__ = ("_number", "_server")

    def __init__(self, data: bytes, number: int, server: "NativeServer") -> None:
        super().__init__(data)
        self._number, self._server = number, server

    def respond(self, response: bytes) -> None:
        """Send the response."""
        self._server.respond(self._number, response)

    def fail(self, error: Exception) -> None:
        """Send the error's status."""
        self._server.fail(self._number, error)


class NativeServer:
    """The fast front end. Call `bind`, then `start`, then `stop`.

    Args:
        receiver: Receives the calls.
        max_message_bytes: Largest request; a larger one is rejected, but only after it was received.
    """

    def __init__(self, receiver: Receiver, max_message_bytes: int) -> None:
        self._receiver, self._max_message_bytes = receiver, max_message_bytes
        self._calls: dict[int, NativeCall] = {}
        self._thread = threading.Thread(target=self._receive, name="receiver", daemon=True)

    def bind(self, target: str, fallback: str) -> int:
        """Bind `target`, HOST:PORT, and return the port; other RPCs go to a server on the Unix socket `fallback`."""
        # call_details: otherwise the front does not report that a client is gone
        self._front = NativeGrpcFront(target, [(PATH, False)], io_threads=IO_THREADS, call_details=True)
        self._front.set_fallback(fallback)
        return int(self._front.bound_port)

    def start(self) -> None:
        """Accept requests from now on."""
        self._front.start()
        self._thread.start()

    def stop(self, grace_s: float) -> None:
        """Wait for the requests in flight, at most `grace_s`, then close all connections."""
        end_s = time.monotonic() + grace_s
        while self._calls and time.monotonic() < end_s:
            time.sleep(POLL_S)
        self._front.close()
        self._thread.join()

    def respond(self, number: int, response: bytes) -> None:
        """Answer a call."""
        if self._calls.pop(number, None):
            self._front.respond(number, response)

    def fail(self, number: int, error: Exception) -> None:
        """End a call with the status of an error."""
        code, details = status(error, PATH, MESSAGE)
        self._fail(number, code, details)

    def _fail(self, number: int, code: grpc.StatusCode, details: str) -> None:
        if self._calls.pop(number, None):
            self._front.fail(number, code.value[0], details)

    def _receive(self) -> None:
        """Hand over calls until the front is closed."""
        while (events := self._front.recv_batch(MAX_CALLS_AT_ONCE)) is not None:
            calls: list[Call] = []
            for kind, number, _, data, _ in events:
                if kind == EVENT_CALL and data is not None:
                    call = self._calls[number] = NativeCall(data, number, self)
                    if len(data) <= self._max_message_bytes:
                        calls.append(call)
                    else:
                        self._reject(number, len(data))
                elif number in self._calls:
                    self._calls.pop(number).cancel()
            self._receiver.accept(calls)

    def _reject(self, number: int, size: int) -> None:
        details = f"the request has {size} bytes; this server accepts {self._max_message_bytes}."
        self._fail(number, grpc.StatusCode.RESOURCE_EXHAUSTED, details)
