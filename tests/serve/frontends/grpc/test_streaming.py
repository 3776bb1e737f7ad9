"""Tests of ModelStreamInfer: one response per request, in order, errors included."""

import asyncio
import queue
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc

from protos import inference, loader
from serve.frontends.grpc.streaming import MAX_IN_FLIGHT, ordered_responses
from tests.serve.conftest import Serve, write_busy

BUSY = 2400
PATH = "/inference.GRPCInferenceService/ModelStreamInfer"
Send = Callable[..., None]


@pytest.fixture(scope="module")
def server(serve: Serve, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a server of a slow model and a fast one."""
    folder = tmp_path_factory.mktemp("streamed")
    write_busy(folder / "slow", "max_batch_size: 4 dynamic_batching {}")
    write_busy(folder / "fast", "max_batch_size: 4")
    with serve(folder, "--grpc-port", 0, "--provider", "cpu") as process:
        assert process.stdout
        yield process.stdout.readline().split()[-1]


@pytest.fixture
def results() -> "queue.Queue[tuple[Any, Any]]":
    return queue.Queue()


@pytest.fixture
def send(server: str, results: "queue.Queue[tuple[Any, Any]]") -> Iterator[Send]:
    """A function that sends a request on one tritonclient stream; (result, error) pairs arrive in `results`."""
    with tritonclient.grpc.InferenceServerClient(server) as client:
        client.start_stream(lambda result, error: results.put((result, error)))

        def send_one(model: str, *values: int, request_id: str = "") -> None:
            tensor = tritonclient.grpc.InferInput("x", [len(values), 1], "INT64")
            tensor.set_data_from_numpy(np.array(values, np.int64)[:, None])
            client.async_stream_infer(model, [tensor], request_id=request_id)

        yield send_one
        client.stop_stream()


class TestTritonclient:
    """Streams of tritonclient."""

    def test_responses_keep_the_order(self, send: Send, results: "queue.Queue[tuple[Any, Any]]") -> None:
        """A slow model's response precedes that of a later request to a fast model; each is marked as final."""
        requests = [("slow", BUSY), ("fast", 1), ("slow", 2), ("fast", 3)]
        for number, (model, value) in enumerate(requests):
            send(model, value, request_id=str(number))
        pairs = [results.get(timeout=20) for _ in requests]
        assert [error for _, error in pairs] == [None] * 4
        assert [result.get_response().id for result, _ in pairs] == ["0", "1", "2", "3"]
        assert [result.as_numpy("y").tolist() for result, _ in pairs] == [[[value]] for _, value in requests]
        assert all(result.get_response().parameters["triton_final_response"].bool_param for result, _ in pairs)

    def test_an_error_is_a_response(self, send: Send, results: "queue.Queue[tuple[Any, Any]]") -> None:
        """An invalid request gets an error response in order, and the stream continues."""
        send("fast", 1)
        send("nothing", 2, request_id="unknown")
        send("fast", 0, 0, 0, 0, 0)
        send("fast", 3)
        pairs = [results.get(timeout=20) for _ in range(4)]
        assert [error and error.message() for _, error in pairs] == [
            None,
            "there is no model 'nothing'.",
            "the batch size must be between 1 and 4; got 5. The limit is the model's max_batch_size in "
            "config.pbtxt, or, without that file, the server's --max-batch.",
            None,
        ]


def test_an_error_has_the_request_id(server: str) -> None:
    """An error response has a message and the request's id; for garbage it has only a message."""
    response_class = loader.message("inference.ModelStreamInferResponse")
    bad = inference.ModelInferRequest(model_name="nothing", id="7").SerializeToString()
    with grpc.insecure_channel(server) as channel:
        call = channel.stream_stream(PATH, request_serializer=bytes, response_deserializer=response_class.FromString)
        first, second = list(call(iter([bad, b"\xff\xff\xff"]), timeout=20))
    empty = inference.ModelInferResponse(id="7")
    expected = inference.ModelStreamInferResponse(error_message="there is no model 'nothing'.", infer_response=empty)
    assert first == expected
    assert second.error_message == "the bytes are not a ModelInferRequest."  # type: ignore[attr-defined]


def test_requests_of_a_stream_share_batches(server: str) -> None:
    """A stream's requests run as they arrive, so that they can share a batch."""

    def requests() -> Iterator[bytes]:
        for value in (BUSY, 1, 2, 3):
            message = inference.ModelInferRequest(model_name="slow")
            message.inputs.add(name="x", datatype="INT64", shape=[1, 1])
            message.raw_input_contents.append(np.int64(value).tobytes())
            yield message.SerializeToString()
            time.sleep(0.05)

    with tritonclient.grpc.InferenceServerClient(server) as client, grpc.insecure_channel(server) as channel:
        before = batches(client)
        assert len(list(channel.stream_stream(PATH, request_serializer=bytes)(requests(), timeout=20))) == 4
        assert {size: count - before.get(size, 0) for size, count in batches(client).items()}[3] == 1


def batches(client: Any) -> dict[int, int]:
    (statistics,) = client.get_inference_statistics("slow").model_stats
    return {batch.batch_size: batch.compute_infer.count for batch in statistics.batch_stats}


class TestLimits:
    """Limits of one stream."""

    @pytest.mark.anyio
    async def test_reading_pauses(self) -> None:
        """A client that sends without reading has a bounded number of requests in flight."""
        started: list[bytes] = []

        async def requests() -> AsyncIterator[bytes]:
            for _ in range(10 * MAX_IN_FLIGHT):
                yield b""

        async def respond(request: bytes) -> bytes:
            started.append(request)
            return request

        responses = ordered_responses(requests(), respond)
        await anext(responses)
        await asyncio.sleep(0.05)
        assert MAX_IN_FLIGHT <= len(started) <= MAX_IN_FLIGHT + 1
        await responses.aclose()

    @pytest.mark.anyio
    async def test_disconnecting_cancels(self) -> None:
        """A client that disconnects cancels its running requests."""
        cancelled: list[bytes] = []

        async def requests() -> AsyncIterator[bytes]:
            for name in (b"1", b"2", b"3"):
                yield name

        async def respond(request: bytes) -> bytes:
            try:
                await asyncio.sleep(0 if request == b"1" else 60)
            except asyncio.CancelledError:
                cancelled.append(request)
                raise
            return request

        responses = ordered_responses(requests(), respond)
        assert await anext(responses) == b"1"
        await asyncio.sleep(0.01)
        await responses.aclose()
        await asyncio.sleep(0.01)
        assert sorted(cancelled) == [b"2", b"3"]
