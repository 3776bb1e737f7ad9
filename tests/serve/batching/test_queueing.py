"""Tests of priorities, queue limits, timeouts, preferred sizes and instances, in the batcher and over gRPC."""

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
from tests.serve.batching.test_batcher import Model, Pending, occupy, rows, submit, wait_for
from tests.serve.conftest import Serve, write_busy

BUSY = 2400  # matrix products: half a second or more


class BusyBatcher:
    """A batcher whose model is busy with a first request until `finish` is called."""

    def __init__(self, settings: BatchSettings) -> None:
        self.model, self.statistics = Model(), Statistics()
        self.batcher = Batcher(self.model.run, settings, self.statistics)
        self.finished: list[float] = []

    def send(self, value: float, count: int = 1, **options: Any) -> Pending:
        return submit(self.batcher, rows(*[value] * count), **options)

    def __enter__(self) -> "BusyBatcher":
        self.first = occupy(self.model, self.batcher)
        return self

    def __exit__(self, *_: object) -> None:
        self.model.go.set()
        assert self.batcher.close(10)

    def finish(self, *requests: Pending) -> list[int]:
        """Unblock the model and wait for the requests; return the batch sizes after the first request."""
        self.model.go.set()
        for request in (self.first, *requests):
            request.outputs()
        return [size for size, _ in self.model.batches][1:]

    def order(self, *requests: Pending) -> list[float]:
        """Unblock the model, and return the values of the requests in the order in which the model ran them."""
        ran: list[float] = []
        run = self.model.run

        def recording(inputs: Any, plan: Any) -> Any:
            ran.append(float(inputs["x"][0, 0]))
            return run(inputs, plan)

        self.batcher._run = recording
        self.finish(*requests)
        return ran


def test_higher_priorities_run_first() -> None:
    """Higher priorities overtake lower ones; a missing or unknown priority is the default level."""
    with BusyBatcher(BatchSettings(1, levels=3, default_level=2)) as busy:
        requests = [(1, 3), (2, 0), (3, 1), (4, 9), (5, 1), (6, 2)]
        sent = [busy.send(value, priority=priority) for value, priority in requests]
        assert busy.order(*sent) == [3, 5, 2, 4, 6, 1]


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
    """The largest possible preferred batch runs; the remaining requests run as a smaller batch."""
    with BusyBatcher(settings) as busy:
        assert busy.finish(*[busy.send(value) for value in range(1, 7)]) == expected


def test_preferred_size_does_not_wait() -> None:
    """With a delay, a batch of a preferred size runs at once."""
    busy = BusyBatcher(BatchSettings(8, max_delay_us=60_000_000, preferred=(2,)))
    for request in [busy.send(value) for value in (1, 2)]:
        request.outputs()
    assert [size for size, _ in busy.model.batches] == [2]
    busy.__exit__()


class TestLimits:
    """Limits on the number of waiting requests and on their waiting time."""

    def test_full_queue_rejects_at_once(self) -> None:
        """A request to a full queue is rejected while the model is busy; a cancelled request makes room."""
        with BusyBatcher(BatchSettings(1, policy=QueuePolicy(max_queue_size=2))) as busy:
            waiting, cancelled = busy.send(1), busy.send(2)
            with pytest.raises(UnavailableError, match="2 requests are waiting"):
                busy.send(3)
            busy.batcher.cancel(cancelled.request)
            assert busy.order(waiting, busy.send(4)) == [1, 4]
        assert busy.statistics.failures == {Reason.REJECTED: 1, Reason.CANCELED: 1}

    def test_limit_of_one_priority(self) -> None:
        """Each priority has its own queue limit."""
        policies = {1: QueuePolicy(max_queue_size=1)}
        with BusyBatcher(BatchSettings(1, levels=2, default_level=2, policies=policies)) as busy:
            waiting = [busy.send(1, priority=1), busy.send(2), busy.send(3)]
            with pytest.raises(UnavailableError):
                busy.send(4, priority=1)
            busy.finish(*waiting)

    def test_expired_requests_are_rejected_while_the_model_is_busy(self) -> None:
        """A request is rejected when its timeout passes, even while the model is busy; the model never runs it."""
        policy = QueuePolicy(timeout_us=50_000)
        with BusyBatcher(BatchSettings(4, policy=policy)) as busy:
            start_s = time.monotonic()
            with pytest.raises(UnavailableError, match="within 50000 microseconds"):
                busy.send(1).outputs()
            assert 0.05 <= time.monotonic() - start_s < 2
            assert busy.finish() == []
        assert busy.statistics.failures == {Reason.REJECTED: 1}

    def test_expired_requests_may_be_deferred(self) -> None:
        """Under a policy that defers, an expired request runs after all others."""
        policy = QueuePolicy(timeout_us=50_000, defer_on_timeout=True)
        with BusyBatcher(BatchSettings(1, policy=policy)) as busy:
            expired = busy.send(1)
            time.sleep(0.07)
            assert busy.order(expired, busy.send(2)) == [2, 1]

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

    def test_two_instances_run_at_once(self) -> None:
        """With two instances the second request does not wait for the first, but the third does."""
        with BusyBatcher(BatchSettings(1, instances=2)) as busy:
            queued = [busy.send(1), busy.send(2)]
            wait_for(lambda: len(busy.model.batches) == 2)
            time.sleep(0.01)
            assert len(busy.model.batches) == 2
            busy.finish(*queued)

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
