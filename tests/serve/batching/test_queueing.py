"""Tests of priorities, queue limits, timeouts, preferred sizes and instances, in the batcher and over gRPC."""

import asyncio
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc
from tritonclient.utils import InferenceServerException

from protos import inference
from serve.batching.batcher import Batcher
from serve.batching.queue import BatchSettings, QueuePolicy
from serve.batching.statistics import Reason, Statistics
from serve.engine.session import threads_per_run
from serve.errors import BadModelError, UnavailableError
from serve.repository import model_config
from serve.wire.tensors import TensorSpec
from tests.serve.batching.test_batcher import NONE, Model, rows
from tests.serve.conftest import Serve, write_busy

BUSY = 2400  # matrix products: half a second or more


class BusyBatcher:
    """A batcher whose model is busy with a first request until `finish` is called."""

    def __init__(self, settings: BatchSettings) -> None:
        self.model, self.statistics = Model(), Statistics()
        self.batcher = Batcher(self.model.run, settings, self.statistics)
        self.finished: list[float] = []

    async def send(self, value: float, count: int = 1, **options: Any) -> "asyncio.Task[Any]":
        async def submit() -> float:
            outputs = await self.batcher.submit(rows(*[value] * count), count, NONE, **options)
            self.finished.append(value)
            return float(outputs["y"][0, 0])

        task = asyncio.create_task(submit())
        await asyncio.sleep(0.01)
        return task

    async def __aenter__(self) -> "BusyBatcher":
        self.model.go.clear()
        self.first = await self.send(0)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.model.go.set()
        await self.batcher.close()

    async def finish(self, *tasks: "asyncio.Task[Any]") -> list[int]:
        """Unblock the model and wait for the tasks; return the batch sizes after the first request."""
        self.model.go.set()
        await asyncio.gather(self.first, *tasks)
        return [size for size, _ in self.model.batches][1:]


@pytest.mark.anyio
async def test_higher_priorities_run_first() -> None:
    """Higher priorities overtake lower ones; a missing or unknown priority is the default level."""
    async with BusyBatcher(BatchSettings(1, levels=3, default_level=2)) as busy:
        requests = [(1, 3), (2, 0), (3, 1), (4, 9), (5, 1), (6, 2)]
        await busy.finish(*[await busy.send(value, priority=priority) for value, priority in requests])
    assert busy.finished == [0, 3, 5, 2, 4, 6, 1]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (BatchSettings(8), [6]),
        (BatchSettings(8, preferred=(4,)), [4, 2]),
        (BatchSettings(8, preferred=(2, 5)), [5, 1]),
        (BatchSettings(4, preferred=(4,)), [4, 2]),
    ],
)
@pytest.mark.anyio
async def test_preferred_sizes(settings: BatchSettings, expected: list[int]) -> None:
    """The largest possible preferred batch runs; the remaining requests run as a smaller batch."""
    async with BusyBatcher(settings) as busy:
        assert await busy.finish(*[await busy.send(value) for value in range(1, 7)]) == expected


@pytest.mark.anyio
async def test_preferred_size_does_not_wait() -> None:
    """With a delay, a batch of a preferred size runs at once."""
    settings = BatchSettings(8, max_delay_us=60_000_000, preferred=(2,))
    busy = BusyBatcher(settings)
    tasks = [await busy.send(value) for value in (1, 2)]
    await asyncio.wait_for(asyncio.gather(*tasks), 5)
    assert [size for size, _ in busy.model.batches] == [2]
    await busy.__aexit__()


class TestLimits:
    """Limits on the number of waiting requests and on their waiting time."""

    @pytest.mark.anyio
    async def test_full_queue_rejects_at_once(self) -> None:
        """A request to a full queue is rejected while the model is busy; a cancelled request makes room."""
        async with BusyBatcher(BatchSettings(1, policy=QueuePolicy(max_queue_size=2))) as busy:
            waiting, cancelled = await busy.send(1), await busy.send(2)
            with pytest.raises(UnavailableError, match="2 requests are waiting"):
                await asyncio.wait_for(await busy.send(3), 1)
            cancelled.cancel()
            await busy.finish(waiting, await busy.send(4))
        assert busy.finished == [0, 1, 4]
        assert busy.statistics.failures == {Reason.REJECTED: 1, Reason.CANCELED: 1}

    @pytest.mark.anyio
    async def test_limit_of_one_priority(self) -> None:
        """Each priority has its own queue limit."""
        policies = {1: QueuePolicy(max_queue_size=1)}
        async with BusyBatcher(BatchSettings(1, levels=2, default_level=2, policies=policies)) as busy:
            waiting = [await busy.send(1, priority=1), await busy.send(2), await busy.send(3)]
            with pytest.raises(UnavailableError):
                await asyncio.wait_for(await busy.send(4, priority=1), 1)
            await busy.finish(*waiting)

    @pytest.mark.anyio
    async def test_expired_requests_are_rejected_while_the_model_is_busy(self) -> None:
        """A request is rejected when its timeout passes, even while the model is busy; the model never runs it."""
        policy = QueuePolicy(timeout_us=50_000)
        async with BusyBatcher(BatchSettings(4, policy=policy)) as busy:
            start = time.monotonic()
            with pytest.raises(UnavailableError, match="within 50000 microseconds"):
                await asyncio.wait_for(await busy.send(1), 5)
            assert 0.05 <= time.monotonic() - start < 2
            assert await busy.finish() == []
        assert busy.statistics.failures == {Reason.REJECTED: 1}

    @pytest.mark.anyio
    async def test_expired_requests_may_be_deferred(self) -> None:
        """Under a policy that defers, an expired request runs after all others."""
        policy = QueuePolicy(timeout_us=50_000, defer_on_timeout=True)
        async with BusyBatcher(BatchSettings(1, policy=policy)) as busy:
            expired = await busy.send(1)
            await asyncio.sleep(0.06)
            await busy.finish(expired, await busy.send(2))
        assert busy.finished == [0, 2, 1]

    @pytest.mark.parametrize(
        ("policy", "requested_us", "expected"),
        [
            (QueuePolicy(), 5, 0),
            (QueuePolicy(allow_override=True), 5, 5),
            (QueuePolicy(timeout_us=9, allow_override=True), 5, 5),
            (QueuePolicy(timeout_us=3, allow_override=True), 5, 3),
            (QueuePolicy(timeout_us=9, allow_override=True), 0, 9),
            (QueuePolicy(timeout_us=9), 5, 9),
        ],
    )
    def test_requested_timeout(self, policy: QueuePolicy, requested_us: int, expected: int) -> None:
        """A request may shorten the timeout if the policy allows it, and never lengthen it."""
        assert policy.timeout_for(requested_us) == expected


class TestInstances:
    """Several batches that run at once."""

    @pytest.mark.anyio
    async def test_two_instances_run_at_once(self) -> None:
        """With two instances the second request does not wait for the first, but the third does."""
        async with BusyBatcher(BatchSettings(1, instances=2)) as busy:
            queued = [await busy.send(1), await busy.send(2)]
            assert len(busy.model.batches) == 2
            await busy.finish(*queued)

    def test_threads_fit_the_cores(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """All instances together, each with its caller's thread, use no more threads than there are cores."""
        monkeypatch.setattr("serve.engine.session._cores", lambda: 4)
        assert [threads_per_run(instances) for instances in (1, 2, 3, 4, 9)] == [4, 3, 2, 1, 1]


@pytest.mark.parametrize("count", [-1, 257, 2**31 - 1])
def test_too_many_instances_are_rejected(count: int) -> None:
    """Too many instances are an error before any thread starts."""
    config = inference.ModelConfig(instance_group=[inference.ModelInstanceGroup(count=count)])
    with pytest.raises(BadModelError, match=f"sets {count} instances"):
        model_config.instances(config)


SPEC = [TensorSpec("x", "INT64", (-1, 1))]


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ({"preferred_batch_size": [9]}, "preferred_batch_size must be between 1 and max_batch_size"),
        ({"priority_levels": 2}, "default_priority_level must be one of the 2 priority_levels; got 0"),
    ],
)
def test_invalid_policies(written: dict[str, Any], message: str) -> None:
    """A model with an invalid policy cannot be loaded."""
    config = inference.ModelConfig(max_batch_size=8, dynamic_batching=inference.ModelDynamicBatching(**written))
    with pytest.raises(BadModelError, match=message):
        model_config.complete(config, "m", SPEC, [TensorSpec("y", "INT64", (-1, 1))])


POLICY = """max_batch_size: 4 dynamic_batching { preferred_batch_size: 1
  default_queue_policy { max_queue_size: 2 default_timeout_microseconds: 5000000 allow_timeout_override: true } }"""


@pytest.fixture(scope="module")
def server(serve: Serve, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a server of two slow models: one with a queue policy, one with two instances."""
    folder = tmp_path_factory.mktemp("queued")
    write_busy(folder / "strict", POLICY)
    write_busy(folder / "pair", "max_batch_size: 4 instance_group { count: 2 }")
    with serve(folder, "--grpc-port", 0, "--provider", "cpu") as process:
        assert process.stdout
        yield process.stdout.readline().split()[-1]


class TestOverGrpc:
    """Priorities, limits and instances over gRPC, with tritonclient."""

    @pytest.fixture
    def triton(self, server: str) -> Iterator[Any]:
        with tritonclient.grpc.InferenceServerClient(server) as client, ThreadPoolExecutor(8) as self.pool:
            yield client

    def send(self, triton: Any, model: str, value: int, **options: Any) -> Any:
        tensor = tritonclient.grpc.InferInput("x", [1, 1], "INT64")
        tensor.set_data_from_numpy(np.array([[value]], np.int64))
        future = self.pool.submit(triton.infer, model, [tensor], **options)
        time.sleep(0.03)
        return future

    def test_timeout_and_limit(self, triton: Any) -> None:
        """A full queue and a request's own timeout are UNAVAILABLE at once, while the model is busy."""
        running, waiting = self.send(triton, "strict", BUSY), self.send(triton, "strict", 1)
        expired = self.send(triton, "strict", 2, timeout=80_000)
        full = self.send(triton, "strict", 3)
        for rejected, message in ((full, "2 requests are waiting"), (expired, "within 80000 microseconds")):
            with pytest.raises(InferenceServerException, match=message) as caught:
                rejected.result(10)
            assert caught.value.status() == "StatusCode.UNAVAILABLE"
        assert not running.done()
        assert (running.result(20).as_numpy("y").item(), waiting.result(20).as_numpy("y").item()) == (BUSY, 1)

    def test_deadline_before_compute(self, triton: Any) -> None:
        """A request whose client's deadline passes in the queue is never computed."""
        (before,) = triton.get_inference_statistics("strict").model_stats
        running, expired = self.send(triton, "strict", BUSY), self.send(triton, "strict", 2, client_timeout=0.1)
        with pytest.raises(InferenceServerException, match="DEADLINE_EXCEEDED"):
            expired.result(10)
        running.result(20)
        self.send(triton, "strict", 0).result(20)
        (after,) = triton.get_inference_statistics("strict").model_stats
        assert after.execution_count - before.execution_count == 2
        assert after.inference_stats.fail.count - before.inference_stats.fail.count == 1

    def test_two_instances(self, triton: Any) -> None:
        """A second instance responds while the first is busy, and ModelConfig has the number of instances."""
        assert triton.get_model_config("pair").config.instance_group[0].count == 2
        running = self.send(triton, "pair", BUSY)
        assert self.send(triton, "pair", 7).result(20).as_numpy("y").item() == 7
        assert not running.done()
        running.result(20)

    def test_models_do_not_starve_each_other(self, triton: Any) -> None:
        """While one model has a long queue, another one responds."""
        futures = [self.send(triton, "pair", BUSY) for _ in range(4)]
        assert self.send(triton, "strict", 7).result(20).as_numpy("y").item() == 7
        assert not all(future.done() for future in futures[2:])
        for future in futures:
            future.result(30)
