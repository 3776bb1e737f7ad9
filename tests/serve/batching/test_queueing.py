"""Queue policies: priorities, limits, timeouts, preferred sizes, instances; in the batcher and over the wire."""

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
from serve.engine.session import threads_a_run
from serve.errors import BadModelError, UnavailableError
from serve.repository import model_config
from serve.wire.tensors import TensorSpec
from tests.serve.batching.test_batcher import NONE, Model, rows
from tests.serve.conftest import Serve, write_busy

BUSY = 2400  # products of matrices: half a second and more


class Scene:
    """A batcher whose model is busy with one request until `free` is called."""

    def __init__(self, settings: BatchSettings) -> None:
        self.model, self.statistics = Model(), Statistics()
        self.batcher = Batcher(self.model.run, settings, self.statistics)
        self.finished: list[float] = []

    async def send(self, value: float, count: int = 1, **options: Any) -> "asyncio.Task[Any]":
        async def one() -> float:
            answer = await self.batcher.submit(rows(*[value] * count), count, NONE, **options)
            self.finished.append(value)
            return float(answer["y"][0, 0])

        task = asyncio.create_task(one())
        await asyncio.sleep(0.01)
        return task

    async def __aenter__(self) -> "Scene":
        self.model.go.clear()
        self.first = await self.send(0)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.model.go.set()
        await self.batcher.close()

    async def end(self, *tasks: "asyncio.Task[Any]") -> list[int]:
        """Free the model; returns the sizes of the batches behind the first."""
        self.model.go.set()
        await asyncio.gather(self.first, *tasks)
        return [size for size, _ in self.model.batches][1:]


def test_higher_priorities_go_first() -> None:
    """Who waits with a higher priority overtakes; without one, or with one that is not there, the default holds."""

    async def main() -> None:
        async with Scene(BatchSettings(1, levels=3, default_level=2)) as scene:
            asked = [(1, 3), (2, 0), (3, 1), (4, 9), (5, 1), (6, 2)]
            await scene.end(*[await scene.send(value, priority=priority) for value, priority in asked])
        assert scene.finished == [0, 3, 5, 2, 4, 6, 1]

    asyncio.run(main())


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (BatchSettings(8), [6]),
        (BatchSettings(8, preferred=(4,)), [4, 2]),
        (BatchSettings(8, preferred=(2, 5)), [5, 1]),
        (BatchSettings(4, preferred=(4,)), [4, 2]),
    ],
)
def test_preferred_sizes(settings: BatchSettings, expected: list[int]) -> None:
    """The largest preferred batch that can be made is made; a rest that makes none goes as it is."""

    async def main() -> None:
        async with Scene(settings) as scene:
            assert await scene.end(*[await scene.send(value) for value in range(1, 7)]) == expected

    asyncio.run(main())


def test_preferred_size_does_not_wait() -> None:
    """With a delay, a batch of a preferred size goes at once."""

    async def main() -> None:
        settings = BatchSettings(8, max_delay_us=60_000_000, preferred=(2,))
        scene = Scene(settings)
        tasks = [await scene.send(value) for value in (1, 2)]
        await asyncio.wait_for(asyncio.gather(*tasks), 5)
        assert [size for size, _ in scene.model.batches] == [2]
        await scene.__aexit__()

    asyncio.run(main())


class TestLimits:
    """How many may wait, and for how long."""

    def test_full_line_rejects_at_once(self) -> None:
        """One more than may wait is refused while the model is busy; who left makes room."""

        async def main() -> None:
            async with Scene(BatchSettings(1, policy=QueuePolicy(max_waiting=2))) as scene:
                kept, left = await scene.send(1), await scene.send(2)
                with pytest.raises(UnavailableError, match="2 requests wait for this model already"):
                    await asyncio.wait_for(await scene.send(3), 1)
                left.cancel()
                await scene.end(kept, await scene.send(4))
            assert scene.finished == [0, 1, 4]
            assert scene.statistics.failures == {Reason.REJECTED: 1, Reason.CANCELED: 1}

        asyncio.run(main())

    def test_limit_of_one_priority(self) -> None:
        """Each priority has a limit of its own."""

        async def main() -> None:
            policies = {1: QueuePolicy(max_waiting=1)}
            async with Scene(BatchSettings(1, levels=2, default_level=2, policies=policies)) as scene:
                kept = [await scene.send(1, priority=1), await scene.send(2), await scene.send(3)]
                with pytest.raises(UnavailableError):
                    await asyncio.wait_for(await scene.send(4, priority=1), 1)
                await scene.end(*kept)

        asyncio.run(main())

    def test_late_requests_are_answered_while_the_model_is_busy(self) -> None:
        """A timeout is answered when it is over, not when the model is free; the model never sees the request."""

        async def main() -> None:
            policy = QueuePolicy(timeout_us=50_000)
            async with Scene(BatchSettings(4, policy=policy)) as scene:
                start = time.monotonic()
                with pytest.raises(UnavailableError, match="within 50000 microseconds"):
                    await asyncio.wait_for(await scene.send(1), 5)
                assert 0.05 <= time.monotonic() - start < 2
                assert await scene.end() == []
            assert scene.statistics.failures == {Reason.REJECTED: 1}

        asyncio.run(main())

    def test_late_requests_may_linger(self) -> None:
        """Where the policy says so, a late request goes behind all others."""

        async def main() -> None:
            policy = QueuePolicy(timeout_us=50_000, linger=True)
            async with Scene(BatchSettings(1, policy=policy)) as scene:
                late = await scene.send(1)
                await asyncio.sleep(0.06)
                await scene.end(late, await scene.send(2))
            assert scene.finished == [0, 2, 1]

        asyncio.run(main())

    @pytest.mark.parametrize(
        ("policy", "asked", "expected"),
        [
            (QueuePolicy(), 5, 0),
            (QueuePolicy(may_override=True), 5, 5),
            (QueuePolicy(timeout_us=9, may_override=True), 5, 5),
            (QueuePolicy(timeout_us=3, may_override=True), 5, 3),
            (QueuePolicy(timeout_us=9, may_override=True), 0, 9),
            (QueuePolicy(timeout_us=9), 5, 9),
        ],
    )
    def test_who_sets_the_timeout(self, policy: QueuePolicy, asked: int, expected: int) -> None:
        """A request may shorten its wait where it is allowed to, and never lengthen it."""
        assert policy.timeout_for(asked) == expected


class TestInstances:
    """Several batches at once."""

    def test_two_run_at_once(self) -> None:
        """With two instances the second request does not wait for the first; the third does."""

        async def main() -> None:
            async with Scene(BatchSettings(1, instances=2)) as scene:
                later = [await scene.send(1), await scene.send(2)]
                assert len(scene.model.batches) == 2
                await scene.end(*later)

        asyncio.run(main())

    def test_threads_fit_the_cores(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """All instances together, each with its caller's thread, never take more threads than there are cores."""
        monkeypatch.setattr("serve.engine.session._cores", lambda: 4)
        assert [threads_a_run(instances) for instances in (1, 2, 3, 4, 9)] == [4, 3, 2, 1, 1]


@pytest.mark.parametrize("count", [-1, 257, 2**31 - 1])
def test_absurd_instances_are_refused(count: int) -> None:
    """Each instance has a thread: a number of them that no machine has is told before any begins."""
    config = inference.ModelConfig(instance_group=[inference.ModelInstanceGroup(count=count)])
    with pytest.raises(BadModelError, match=f"asks for {count} instances"):
        model_config.instances(config)


SPEC = [TensorSpec("x", "INT64", (-1, 1))]


@pytest.mark.parametrize(
    ("written", "words"),
    [
        ({"preferred_batch_size": [9]}, "preferred_batch_size must lie between 1 and max_batch_size"),
        ({"priority_levels": 2}, "default_priority_level must be one of the 2 priority_levels; got 0"),
    ],
)
def test_spoiled_policies(written: dict[str, Any], words: str) -> None:
    """A policy that cannot be kept fails the model when it is loaded."""
    config = inference.ModelConfig(max_batch_size=8, dynamic_batching=inference.ModelDynamicBatching(**written))
    with pytest.raises(BadModelError, match=words):
        model_config.complete(config, "m", SPEC, [TensorSpec("y", "INT64", (-1, 1))])


POLICY = """max_batch_size: 4 dynamic_batching { preferred_batch_size: 1
  default_queue_policy { max_queue_size: 2 default_timeout_microseconds: 5000000 allow_timeout_override: true } }"""


@pytest.fixture(scope="module")
def server(serve: Serve, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server of two slow models, one with a policy and one with two instances."""
    folder = tmp_path_factory.mktemp("queued")
    write_busy(folder / "strict", POLICY)
    write_busy(folder / "pair", "max_batch_size: 4 instance_group { count: 2 }")
    with serve(folder, "--grpc-port", 0, "--provider", "cpu") as process:
        assert process.stdout
        yield process.stdout.readline().split()[-1]


class TestOverTheWire:
    """What a stock client meets."""

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
        """A full line and a request's own timeout are UNAVAILABLE at once, while the model is busy."""
        busy, kept = self.send(triton, "strict", BUSY), self.send(triton, "strict", 1)
        late = self.send(triton, "strict", 2, timeout=80_000)
        full = self.send(triton, "strict", 3)
        for refused, words in ((full, "2 requests wait"), (late, "within 80000 microseconds")):
            with pytest.raises(InferenceServerException, match=words) as caught:
                refused.result(10)
            assert caught.value.status() == "StatusCode.UNAVAILABLE"
        assert not busy.done()
        assert (busy.result(20).as_numpy("y").item(), kept.result(20).as_numpy("y").item()) == (BUSY, 1)

    def test_deadline_before_compute(self, triton: Any) -> None:
        """A request whose client's deadline passes in line is never computed."""
        (before,) = triton.get_inference_statistics("strict").model_stats
        busy, left = self.send(triton, "strict", BUSY), self.send(triton, "strict", 2, client_timeout=0.1)
        with pytest.raises(InferenceServerException, match="DEADLINE_EXCEEDED"):
            left.result(10)
        busy.result(20)
        self.send(triton, "strict", 0).result(20)
        (after,) = triton.get_inference_statistics("strict").model_stats
        assert after.execution_count - before.execution_count == 2
        assert after.inference_stats.fail.count - before.inference_stats.fail.count == 1

    def test_two_instances(self, triton: Any) -> None:
        """A second instance answers while the first is busy, and ModelConfig says how many there are."""
        assert triton.get_model_config("pair").config.instance_group[0].count == 2
        busy = self.send(triton, "pair", BUSY)
        assert self.send(triton, "pair", 7).result(20).as_numpy("y").item() == 7
        assert not busy.done()
        busy.result(20)

    def test_models_do_not_starve_each_other(self, triton: Any) -> None:
        """While one model has a long line, another answers."""
        flood = [self.send(triton, "pair", BUSY) for _ in range(4)]
        assert self.send(triton, "strict", 7).result(20).as_numpy("y").item() == 7
        assert not all(each.done() for each in flood[2:])
        for each in flood:
            each.result(30)
