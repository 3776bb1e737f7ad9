"""ModelStreamInfer: one answer a request, in order, failures among them."""

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
from serve.frontends.grpc.streaming import DEPTH, ordered_responses
from tests.serve.conftest import Serve, write_busy

BUSY = 2400
PATH = "/inference.GRPCInferenceService/ModelStreamInfer"
Send = Callable[..., None]


@pytest.fixture(scope="module")
def server(serve: Serve, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server of one slow model and a quick one."""
    folder = tmp_path_factory.mktemp("streamed")
    write_busy(folder / "slow", "max_batch_size: 4 dynamic_batching {}")
    write_busy(folder / "quick", "max_batch_size: 4")
    with serve(folder, "--grpc-port", 0, "--provider", "cpu") as process:
        assert process.stdout
        yield process.stdout.readline().split()[-1]


@pytest.fixture
def answers() -> "queue.Queue[tuple[Any, Any]]":
    return queue.Queue()


@pytest.fixture
def send(server: str, answers: "queue.Queue[tuple[Any, Any]]") -> Iterator[Send]:
    """Send a request on one stream of tritonclient's; (result, error) pairs arrive in `answers`."""
    with tritonclient.grpc.InferenceServerClient(server) as client:
        client.start_stream(lambda result, error: answers.put((result, error)))

        def one(model: str, *values: int, request_id: str = "") -> None:
            tensor = tritonclient.grpc.InferInput("x", [len(values), 1], "INT64")
            tensor.set_data_from_numpy(np.array(values, np.int64)[:, None])
            client.async_stream_infer(model, [tensor], request_id=request_id)

        yield one
        client.stop_stream()


class TestTritonclient:
    """A stock client streams."""

    def test_answers_keep_the_order(self, send: Send, answers: "queue.Queue[tuple[Any, Any]]") -> None:
        """A slow model's answer comes before a quick one's when it was asked first; each says that it is final."""
        asked = [("slow", BUSY), ("quick", 1), ("slow", 2), ("quick", 3)]
        for number, (model, value) in enumerate(asked):
            send(model, value, request_id=str(number))
        found = [answers.get(timeout=20) for _ in asked]
        assert [error for _, error in found] == [None] * 4
        assert [result.get_response().id for result, _ in found] == ["0", "1", "2", "3"]
        assert [result.as_numpy("y").tolist() for result, _ in found] == [[[value]] for _, value in asked]
        assert all(result.get_response().parameters["triton_final_response"].bool_param for result, _ in found)

    def test_a_failure_is_an_answer(self, send: Send, answers: "queue.Queue[tuple[Any, Any]]") -> None:
        """A bad request among good ones gets an error in its place, and the stream goes on."""
        send("quick", 1)
        send("nothing", 2, request_id="lost")
        send("quick", 0, 0, 0, 0, 0)
        send("quick", 3)
        found = [answers.get(timeout=20) for _ in range(4)]
        assert [error and error.message() for _, error in found] == [
            None,
            "there is no model 'nothing'.",
            "a batch must be between 1 and 4; this one is 5.",
            None,
        ]


def test_a_failure_keeps_its_id(server: str) -> None:
    """On the wire a failure has its words, the request's id and nothing else; garbage has words alone."""
    answer = loader.message("inference.ModelStreamInferResponse")
    bad = inference.ModelInferRequest(model_name="nothing", id="7").SerializeToString()
    with grpc.insecure_channel(server) as channel:
        call = channel.stream_stream(PATH, request_serializer=bytes, response_deserializer=answer.FromString)
        first, second = list(call(iter([bad, b"\xff\xff\xff"]), timeout=20))
    lost = inference.ModelInferResponse(id="7")
    expected = inference.ModelStreamInferResponse(error_message="there is no model 'nothing'.", infer_response=lost)
    assert first == expected
    assert second.error_message == "the bytes are not a ModelInferRequest."  # type: ignore[attr-defined]


def test_requests_of_a_stream_share_batches(server: str) -> None:
    """A stream's requests are begun as they come, so that they can go through the model together."""

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
    (found,) = client.get_inference_statistics("slow").model_stats
    return {each.batch_size: each.compute_infer.count for each in found.batch_stats}


class TestLimits:
    """A stream takes no more than its share."""

    def test_reading_pauses(self) -> None:
        """A client that sends much and reads nothing has a bounded number of requests begun."""
        begun: list[bytes] = []

        async def requests() -> AsyncIterator[bytes]:
            for _ in range(10 * DEPTH):
                yield b""

        async def answer(request: bytes) -> bytes:
            begun.append(request)
            return request

        async def main() -> None:
            answers = ordered_responses(requests(), answer)
            await anext(answers)
            await asyncio.sleep(0.05)
            assert DEPTH <= len(begun) <= DEPTH + 1
            await answers.aclose()

        asyncio.run(main())

    def test_leaving_cancels(self) -> None:
        """A client that leaves takes what it has begun with it."""
        cancelled: list[bytes] = []

        async def requests() -> AsyncIterator[bytes]:
            for name in (b"1", b"2", b"3"):
                yield name

        async def answer(request: bytes) -> bytes:
            try:
                await asyncio.sleep(0 if request == b"1" else 60)
            except asyncio.CancelledError:
                cancelled.append(request)
                raise
            return request

        async def main() -> None:
            answers = ordered_responses(requests(), answer)
            assert await anext(answers) == b"1"
            await asyncio.sleep(0.01)
            await answers.aclose()
            await asyncio.sleep(0.01)

        asyncio.run(main())
        assert sorted(cancelled) == [b"2", b"3"]
