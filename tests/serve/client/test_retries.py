"""Clients try again where a server is not available, and only there; the asyncio client does what the other does."""

import asyncio
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from PIL import Image

from protos import inference
from serve.client.aio import AsyncClient
from serve.client.sync import Client
from serve.errors import (
    NoSuchLayerError,
    NoSuchModelError,
    RefusedError,
    SettingsError,
    TimedOutError,
    UnreachableError,
)

SERVICE = "inference.GRPCInferenceService"
UNAVAILABLE, INVALID = grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INVALID_ARGUMENT
X = np.array([[1, 2, 3]], np.float32)


class Moody:
    """A server that refuses with `refusals` before it says that it is live."""

    def __init__(self) -> None:
        self.refusals: list[grpc.StatusCode] = []
        self.calls = 0

    def live(self, _: bytes, context: Any) -> bytes:
        self.calls += 1
        if self.refusals:
            context.abort(self.refusals.pop(0), "not now")
        return inference.ServerLiveResponse(live=True).SerializeToString()


@pytest.fixture
def moody() -> Iterator[tuple[Moody, str]]:
    """Such a server, and where it listens."""
    mood, server = Moody(), grpc.server(ThreadPoolExecutor(2))
    methods = {"ServerLive": grpc.unary_unary_rpc_method_handler(mood.live)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, methods),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield mood, f"127.0.0.1:{port}"
    server.stop(None).wait()


def with_client(url: str, **options: Any) -> bool:
    with Client(url, **options) as client:
        return client.live()


def with_async_client(url: str, **options: Any) -> bool:
    async def run() -> bool:
        async with AsyncClient(url, **options) as client:
            return await client.live()

    return asyncio.run(run())


@pytest.mark.parametrize("live", [with_client, with_async_client])
class TestRetries:
    """How often a server is asked."""

    def test_until_it_is_available(self, moody: tuple[Moody, str], live: Callable[..., bool]) -> None:
        """Two refusals are waited out, with pauses between."""
        mood, url = moody
        mood.refusals = [UNAVAILABLE] * 2
        assert (live(url), mood.calls) == (True, 3)

    def test_not_for_ever(self, moody: tuple[Moody, str], live: Callable[..., bool]) -> None:
        """After `retries` more calls the last refusal is the answer."""
        mood, url = moody
        mood.refusals = [UNAVAILABLE] * 9
        with pytest.raises(UnreachableError):
            live(url, retries=1)
        assert mood.calls == 2

    def test_can_be_off(self, moody: tuple[Moody, str], live: Callable[..., bool]) -> None:
        """Without retries one call is made."""
        mood, url = moody
        mood.refusals = [UNAVAILABLE]
        with pytest.raises(UnreachableError):
            live(url, retries=0)
        assert mood.calls == 1

    def test_other_refusals_are_final(self, moody: tuple[Moody, str], live: Callable[..., bool]) -> None:
        """A request that is wrong stays wrong."""
        mood, url = moody
        mood.refusals = [INVALID]
        with pytest.raises(RefusedError):
            live(url)
        assert mood.calls == 1

    def test_the_deadline_holds(self, moody: tuple[Moody, str], live: Callable[..., bool]) -> None:
        """All calls together take no longer than one may."""
        mood, url = moody
        mood.refusals = [UNAVAILABLE] * 9
        start = time.monotonic()
        with pytest.raises((TimedOutError, UnreachableError)):
            live(url, timeout_s=0.05, retries=4)
        assert time.monotonic() - start < 2

    def test_too_many(self, live: Callable[..., bool]) -> None:
        """gRPC makes at most five calls, so more are refused."""
        with pytest.raises(SettingsError, match="between 0 and 4"):
            live("127.0.0.1:1", retries=5)


class TestAsyncClient:
    """Against the real server."""

    def test_many_at_once(self, url: str) -> None:
        """Requests at the same time each get their own answer."""

        async def run() -> list[Any]:
            async with AsyncClient(url, timeout_s=20) as client:
                assert await client.ready()
                return await asyncio.gather(*(client.infer("bare", {"x": X * i}) for i in range(20)))

        for i, answer in enumerate(asyncio.run(run())):
            np.testing.assert_array_equal(answer["y"], X * i)

    def test_the_same_as_the_other(self, url: str) -> None:
        """What it says of a model is what the other client says, its errors too."""

        async def run() -> Any:
            async with AsyncClient(url, timeout_s=20) as client:
                with pytest.raises(NoSuchModelError):
                    await client.model("nothing")
                return await client.model("images")

        with Client(url, timeout_s=20) as client:
            assert asyncio.run(run()) == client.model("images")

    def test_images_and_layers(self, url: str, tmp_path: Path) -> None:
        """Images by path and layers by glob give what the other client gives."""
        pixels = np.arange(8, dtype=np.uint8).reshape(2, 2, 2) * 30
        files = [tmp_path / f"{number}.png" for number in range(2)]
        for file, each in zip(files, pixels, strict=True):
            Image.fromarray(each).save(file)
        x = {"image": pixels[..., None]}

        async def run() -> Any:
            async with AsyncClient(url, timeout_s=20) as client:
                with pytest.raises(NoSuchLayerError, match="no layer of model 'images' matches 'z\\*'"):
                    await client.activations("images", x, ["z*"])
                found = await client.infer_images("images", files, ["logits"])
                return found, await client.layers("images"), await client.activations("images", x, ["*"])

        found, layers, activations = asyncio.run(run())
        with Client(url, timeout_s=20) as client:
            assert (
                client.infer_images("images", [str(file) for file in files])["logits"].tolist()
                == found["logits"].tolist()
            )
            assert client.layers("images") == layers
            assert client.activations("images", x, ["*"]).keys() == activations.keys()
        assert found["logits"].tolist() == pixels.reshape(2, 4).tolist()
        assert len(layers) == len(activations) == 3
