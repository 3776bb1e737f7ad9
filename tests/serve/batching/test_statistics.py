"""Tests of ModelStatistics: exact counts for scripted arrivals, and durations that add up."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc
from tritonclient.utils import InferenceServerException

from protos import inference
from serve.client.sync import Client
from serve.errors import RefusedError, ServerFailedError
from tests.serve.conftest import Serve, write_busy, write_identity

Counts = dict[int, int]
BUSY = 2400  # matrix products: half a second or more


@pytest.fixture(scope="module")
def server(serve: Serve, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a server of models that differ only in their batching."""
    folder = tmp_path_factory.mktemp("counted")
    write_busy(folder / "batching", "max_batch_size: 4 dynamic_batching {}")
    write_busy(folder / "single", "max_batch_size: 4")
    write_busy(folder / "waiting", "max_batch_size: 4 dynamic_batching { max_queue_delay_microseconds: 400000 }")
    for version in (1, 2):
        write_identity(folder / "versions" / str(version) / "model.onnx")
    (folder / "versions" / "config.pbtxt").write_text("version_policy { all {} }")
    with serve(folder, "--grpc-port", 0, "--provider", "cpu") as process:
        assert process.stdout
        yield process.stdout.readline().split()[-1]


@pytest.fixture
def triton(server: str) -> Iterator[Any]:
    with tritonclient.grpc.InferenceServerClient(server) as client:
        yield client


@pytest.fixture
def send(server: str) -> Iterator[Callable[..., Any]]:
    """A function that sends a request with a row for each number and returns its future; requests leave in order."""
    with Client(server, timeout_s=30) as client, ThreadPoolExecutor(16) as pool:

        def submit(model: str, *values: int) -> Any:
            future = pool.submit(client.infer, model, {"x": np.array(values, np.int64)[:, None]})
            time.sleep(0.02)
            return future

        yield submit


def statistics(triton: Any, model: str, version: str = "") -> inference.ModelStatistics:
    (statistics,) = triton.get_inference_statistics(model, version).model_stats
    return statistics


def executions(statistics: inference.ModelStatistics) -> Counts:
    """Return the number of executions by batch size."""
    return {batch.batch_size: batch.compute_infer.count for batch in statistics.batch_stats}


class TestArrivals:
    """Counts that show which requests shared a batch."""

    @pytest.mark.parametrize(
        ("model", "arrivals", "expected"),
        [
            ("batching", [[BUSY], [0], [0], [0]], {1: 1, 3: 1}),
            ("batching", [[BUSY], [0, 0], [0, 0, 0], [0]], {1: 1, 2: 1, 4: 1}),
            ("batching", [[BUSY], *[[0]] * 6], {1: 1, 2: 1, 4: 1}),
            ("single", [[BUSY], [0], [0, 0], [0]], {1: 3, 2: 1}),
            ("waiting", [[0], [0]], {2: 1}),
            ("waiting", [[0, 0], [0, 0]], {4: 1}),
        ],
    )
    def test_counts(self, triton: Any, send: Any, model: str, arrivals: list[list[int]], expected: Counts) -> None:
        """Each pattern of arrivals runs in the expected batches, and every row is counted once."""
        before = statistics(triton, model)
        for future in [send(model, *rows) for rows in arrivals]:
            future.result(30)
        after = statistics(triton, model)
        old = executions(before)
        added = {size: count - old.get(size, 0) for size, count in executions(after).items()}
        assert {size: count for size, count in added.items() if count} == expected
        assert after.inference_count - before.inference_count == sum(map(len, arrivals))
        assert after.execution_count - before.execution_count == sum(expected.values())
        stats = after.inference_stats
        assert stats.success.count - before.inference_stats.success.count == len(arrivals)

    def test_durations_add_up(self, triton: Any, send: Any) -> None:
        """The phases add up to the requests' time, and the queue and the model take most of it."""
        before = statistics(triton, "single").inference_stats
        start = time.monotonic_ns()
        for future in [send("single", BUSY), send("single", 0)]:
            future.result(30)
        wall = time.monotonic_ns() - start
        after = statistics(triton, "single").inference_stats
        spent = {
            name: getattr(after, name).ns - getattr(before, name).ns
            for name in ("success", "queue", "compute_input", "compute_infer", "compute_output")
        }
        assert spent.pop("success") == sum(spent.values())
        assert wall / 4 < spent["queue"] < wall
        assert wall / 4 < spent["compute_infer"] < wall
        counts = {getattr(after, name).count for name in ("success", *spent)}
        assert counts == {after.success.count}

    def test_last_inference(self, triton: Any, send: Any) -> None:
        """The end of the last inference is reported in milliseconds since 1970."""
        before_ms = time.time_ns() // 1_000_000
        send("batching", 0).result(30)
        assert before_ms <= statistics(triton, "batching").last_inference <= time.time_ns() // 1_000_000


class TestFailures:
    """Which requests count as failed."""

    def test_invalid_requests_do_not_count(self, triton: Any, send: Any) -> None:
        """A request that was rejected before it was queued is not counted."""
        before = statistics(triton, "batching")
        with pytest.raises(RefusedError, match="between 1 and 4; got 0"):
            send("batching").result(30)
        assert statistics(triton, "batching") == before

    def test_a_failing_model_counts(self, url: str) -> None:
        """A request on which the model failed counts only as failed."""
        with tritonclient.grpc.InferenceServerClient(url) as triton, Client(url) as client:
            before = statistics(triton, "picky")
            with pytest.raises(ServerFailedError):
                client.infer("picky", {"x": np.arange(3), "shape": np.array([7])})
            after = statistics(triton, "picky")
        assert after.inference_stats.fail.count == before.inference_stats.fail.count + 1
        assert after.inference_stats.fail.ns > before.inference_stats.fail.ns
        assert after.inference_stats.success == before.inference_stats.success


class TestSelection:
    """Which models' statistics are returned."""

    def test_all_models(self, triton: Any) -> None:
        """Without a name, the statistics of every version of every model are returned."""
        actual = triton.get_inference_statistics().model_stats
        expected = [("batching", "1"), ("single", "1"), ("versions", "1"), ("versions", "2"), ("waiting", "1")]
        assert [(model.name, model.version) for model in actual] == expected

    def test_versions(self, triton: Any) -> None:
        """A name selects all its versions, name and version one of them."""
        assert [model.version for model in triton.get_inference_statistics("versions").model_stats] == ["1", "2"]
        assert statistics(triton, "versions", "2").version == "2"

    @pytest.mark.parametrize(("model", "version"), [("nothing", ""), ("versions", "3"), ("versions", "x")])
    def test_unknown(self, triton: Any, model: str, version: str) -> None:
        """An unknown model or version is INVALID_ARGUMENT, as on a Triton server."""
        with pytest.raises(InferenceServerException) as caught:
            triton.get_inference_statistics(model, version)
        assert caught.value.status() == "StatusCode.INVALID_ARGUMENT"
