"""Both clients retry only UNAVAILABLE calls; the asyncio client returns the same as the synchronous one."""

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


class FailingService:
    """A service that fails once with each of `failures`, then reports that it is live."""

    def __init__(self) -> None:
        self.failures: list[grpc.StatusCode] = []
        self.calls = 0

    def live(self, _: bytes, context: Any) -> bytes:
        self.calls += 1
        if self.failures:
            context.abort(self.failures.pop(0), "try later")
        return inference.ServerLiveResponse(live=True).SerializeToString()


@pytest.fixture
def failing() -> Iterator[tuple[FailingService, str]]:
    """A failing service, and the address of its server."""
    service, server = FailingService(), grpc.server(ThreadPoolExecutor(2))
    methods = {"ServerLive": grpc.unary_unary_rpc_method_handler(service.live)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, methods),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield service, f"127.0.0.1:{port}"
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
    """The number of calls that reach the server."""

    def test_retries_until_available(self, failing: tuple[FailingService, str], live: Callable[..., bool]) -> None:
        """A call succeeds after two UNAVAILABLE responses."""
        service, url = failing
        service.failures = [UNAVAILABLE] * 2
        assert (live(url), service.calls) == (True, 3)

    def test_retries_are_limited(self, failing: tuple[FailingService, str], live: Callable[..., bool]) -> None:
        """After `retries` more calls the failure is raised."""
        service, url = failing
        service.failures = [UNAVAILABLE] * 9
        with pytest.raises(UnreachableError):
            live(url, retries=1)
        assert service.calls == 2

    def test_no_retries(self, failing: tuple[FailingService, str], live: Callable[..., bool]) -> None:
        """With retries=0 a single call is made."""
        service, url = failing
        service.failures = [UNAVAILABLE]
        with pytest.raises(UnreachableError):
            live(url, retries=0)
        assert service.calls == 1

    def test_other_failures_are_not_retried(
        self, failing: tuple[FailingService, str], live: Callable[..., bool]
    ) -> None:
        """An INVALID_ARGUMENT response is raised at once."""
        service, url = failing
        service.failures = [INVALID]
        with pytest.raises(RefusedError):
            live(url)
        assert service.calls == 1

    def test_timeout_includes_retries(self, failing: tuple[FailingService, str], live: Callable[..., bool]) -> None:
        """A call and its retries together respect `timeout_s`."""
        service, url = failing
        service.failures = [UNAVAILABLE] * 9
        start = time.monotonic()
        with pytest.raises((TimedOutError, UnreachableError)):
            live(url, timeout_s=0.05, retries=4)
        assert time.monotonic() - start < 2

    def test_too_many_retries(self, live: Callable[..., bool]) -> None:
        """More than four retries are rejected: gRPC makes at most five calls."""
        with pytest.raises(SettingsError, match="between 0 and 4"):
            live("127.0.0.1:1", retries=5)


class TestAsyncClient:
    """The asyncio client, with a real server."""

    def test_concurrent_requests(self, url: str) -> None:
        """Each of many concurrent requests receives its own response."""

        async def run() -> list[Any]:
            async with AsyncClient(url, timeout_s=20) as client:
                assert await client.ready()
                return await asyncio.gather(*(client.infer("bare", {"x": X * i}) for i in range(20)))

        for i, outputs in enumerate(asyncio.run(run())):
            np.testing.assert_array_equal(outputs["y"], X * i)

    def test_model(self, url: str) -> None:
        """Model information and errors are those of the synchronous client."""

        async def run() -> Any:
            async with AsyncClient(url, timeout_s=20) as client:
                with pytest.raises(NoSuchModelError):
                    await client.model("nothing")
                return await client.model("images")

        with Client(url, timeout_s=20) as client:
            assert asyncio.run(run()) == client.model("images")

    def test_images_and_layers(self, url: str, tmp_path: Path) -> None:
        """Outputs for image files and layer patterns equal those of the synchronous client."""
        pixels = np.arange(8, dtype=np.uint8).reshape(2, 2, 2) * 30
        files = [tmp_path / f"{number}.png" for number in range(2)]
        for file, image in zip(files, pixels, strict=True):
            Image.fromarray(image).save(file)
        x = {"image": pixels[..., None]}

        async def run() -> Any:
            async with AsyncClient(url, timeout_s=20) as client:
                with pytest.raises(NoSuchLayerError, match="no layer of model 'images' matches 'z\\*'"):
                    await client.activations("images", x, ["z*"])
                outputs = await client.infer_images("images", files, ["logits"])
                return outputs, await client.layers("images"), await client.activations("images", x, ["*"])

        outputs, layers, activations = asyncio.run(run())
        with Client(url, timeout_s=20) as client:
            assert (
                client.infer_images("images", [str(file) for file in files])["logits"].tolist()
                == outputs["logits"].tolist()
            )
            assert client.layers("images") == layers
            assert client.activations("images", x, ["*"]).keys() == activations.keys()
        assert outputs["logits"].tolist() == pixels.reshape(2, 4).tolist()
        assert len(layers) == len(activations) == 3


def test_both_clients_have_the_same_methods() -> None:
    """A call that one client offers is offered by the other; an asyncio client is closed by its block."""
    methods = [{name for name in vars(client) if not name.startswith("_")} for client in (Client, AsyncClient)]
    assert methods[0] - methods[1] == {"close", "wait_connected"}
    assert methods[1] <= methods[0]
