"""ModelStatistics: exact counts for scripted arrivals, and durations that add up."""

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
BUSY = 2400  # products of matrices: half a second and more


@pytest.fixture(scope="module")
def server(serve: Serve, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server of models that differ only in how they batch."""
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
def ask(server: str) -> Iterator[Callable[..., Any]]:
    """Send a request with a row for each number, in the background; requests leave in order."""
    with Client(server, timeout_s=30) as client, ThreadPoolExecutor(16) as pool:

        def send(model: str, *values: int) -> Any:
            future = pool.submit(client.infer, model, {"x": np.array(values, np.int64)[:, None]})
            time.sleep(0.02)
            return future

        yield send


def statistics(triton: Any, model: str, version: str = "") -> inference.ModelStatistics:
    (found,) = triton.get_inference_statistics(model, version).model_stats
    return found


def executions(found: inference.ModelStatistics) -> Counts:
    return {each.batch_size: each.compute_infer.count for each in found.batch_stats}


class TestArrivals:
    """Who shares a batch is seen in the counts."""

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
    def test_counts(self, triton: Any, ask: Any, model: str, arrivals: list[list[int]], expected: Counts) -> None:
        """Each pattern of arrivals makes exactly these batches, and every row is counted once."""
        before = statistics(triton, model)
        for answer in [ask(model, *rows) for rows in arrivals]:
            answer.result(30)
        after = statistics(triton, model)
        old = executions(before)
        made = {size: count - old.get(size, 0) for size, count in executions(after).items()}
        assert {size: count for size, count in made.items() if count} == expected
        assert after.inference_count - before.inference_count == sum(map(len, arrivals))
        assert after.execution_count - before.execution_count == sum(expected.values())
        stats = after.inference_stats
        assert stats.success.count - before.inference_stats.success.count == len(arrivals)

    def test_durations_add_up(self, triton: Any, ask: Any) -> None:
        """The parts of the requests' time are all of it, and they are where the time went."""
        before = statistics(triton, "single").inference_stats
        start = time.monotonic_ns()
        for answer in [ask("single", BUSY), ask("single", 0)]:
            answer.result(30)
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

    def test_last_inference(self, triton: Any, ask: Any) -> None:
        """The time of the last answer is told in milliseconds since 1970."""
        before_ms = time.time_ns() // 1_000_000
        ask("batching", 0).result(30)
        assert before_ms <= statistics(triton, "batching").last_inference <= time.time_ns() // 1_000_000


class TestFailures:
    """What counts as failed."""

    def test_refused_requests_do_not_count(self, triton: Any, ask: Any) -> None:
        """A request that never queued is in no count."""
        before = statistics(triton, "batching")
        with pytest.raises(RefusedError, match="between 1 and 4"):
            ask("batching", 0, 0, 0, 0, 0).result(30)
        assert statistics(triton, "batching") == before

    def test_a_failing_model_counts(self, url: str) -> None:
        """A request on which the model failed counts as fail, and as nothing else."""
        with tritonclient.grpc.InferenceServerClient(url) as triton, Client(url) as client:
            before = statistics(triton, "picky")
            with pytest.raises(ServerFailedError):
                client.infer("picky", {"x": np.arange(3), "shape": np.array([7])})
            after = statistics(triton, "picky")
        assert after.inference_stats.fail.count == before.inference_stats.fail.count + 1
        assert after.inference_stats.fail.ns > before.inference_stats.fail.ns
        assert after.inference_stats.success == before.inference_stats.success


class TestQuestions:
    """Whose statistics are told."""

    def test_all_models(self, triton: Any) -> None:
        """Without a name every version of every model comes."""
        found = triton.get_inference_statistics().model_stats
        expected = [("batching", "1"), ("single", "1"), ("versions", "1"), ("versions", "2"), ("waiting", "1")]
        assert [(each.name, each.version) for each in found] == expected

    def test_versions(self, triton: Any) -> None:
        """A name brings all its versions, a version that one."""
        assert [each.version for each in triton.get_inference_statistics("versions").model_stats] == ["1", "2"]
        assert statistics(triton, "versions", "2").version == "2"

    @pytest.mark.parametrize(("model", "version"), [("nothing", ""), ("versions", "3"), ("versions", "x")])
    def test_unknown(self, triton: Any, model: str, version: str) -> None:
        """An unknown model or version is INVALID_ARGUMENT, as on a Triton."""
        with pytest.raises(InferenceServerException) as caught:
            triton.get_inference_statistics(model, version)
        assert caught.value.status() == "StatusCode.INVALID_ARGUMENT"
