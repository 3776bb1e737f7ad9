"""The HTTP port: metrics under Triton's names, and health."""

import re
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper

from serve.client.sync import Client
from serve.errors import RefusedError, ServerFailedError
from tests.conftest import Zoonnx
from tests.serve.conftest import Serve, write_identity, write_model

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]
COUNTERS = ("request_success", "count", "exec_count")
PARTS = ("request", "queue", "compute_input", "compute_infer", "compute_output")


@pytest.fixture(scope="module")
def urls(serve: Serve, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """A server's gRPC address, and where its HTTP is."""
    folder = tmp_path_factory.mktemp("measured")
    write_identity(folder / "tagged" / "1" / "model.onnx")
    (folder / "tagged" / "config.pbtxt").write_text('max_batch_size: 4 metric_tags { key: "team" value: "vision" }')
    nodes = [helper.make_node("Reshape", ["x", "shape"], ["y"])]
    inputs = [("x", TensorProto.INT64, ["n"]), ("shape", TensorProto.INT64, [1])]
    write_model(folder / "picky" / "1" / "model.onnx", nodes, inputs, [("y", TensorProto.INT64, ["m"])])
    (folder / "picky" / "config.pbtxt").write_text("max_batch_size: 0 input { name: 'x' } input { name: 'shape' }")
    with serve(folder, "--grpc-port", 0, "--http-port", 0, "--provider", "cpu") as process:
        assert process.stdout
        grpc = process.stdout.readline().split()[-1]
        word, metrics = process.stdout.readline().split()
        assert word == "metrics:"
        yield grpc, metrics.removesuffix("/metrics")


def get(url: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def scrape(http: str) -> tuple[Samples, dict[str, str]]:
    """Every sample by name and labels, and every family's type, by the text format's rules."""
    text = get(f"{http}/metrics")[1]
    types = dict(re.findall(r"^# TYPE (\w+) (\w+)$", text, re.MULTILINE))
    samples = {}
    for name, labels, value in re.findall(r"^(\w+)(?:\{(.*)\})? (\S+)$", text, re.MULTILINE):
        samples[name, frozenset(re.findall(r'(\w+)="([^"]*)"', labels))] = float(value)
    return samples, types


def of(model: str, **more: str) -> frozenset[tuple[str, str]]:
    tags = {"team": "vision"} if model == "tagged" else {}
    return frozenset({"model": model, "version": "1", **tags, **more}.items())


class TestMetrics:
    """What Prometheus reads."""

    def test_everything_is_there_from_the_start(self, urls: tuple[str, str]) -> None:
        """Each model has each metric under Triton's name and labels, its own tags among them; counters are counters."""
        samples, types = scrape(urls[1])
        for model in ("tagged", "picky"):
            for name in (*COUNTERS, *(f"{part}_duration_us" for part in PARTS), "pending_request_count"):
                assert (f"nv_inference_{name}", of(model)) in samples
            for reason in ("OTHER", "CANCELED", "BACKEND", "REJECTED"):
                assert ("nv_inference_request_failure", of(model, reason=reason)) in samples
        assert types["nv_inference_count"] == "counter"
        assert types["nv_inference_pending_request_count"] == "gauge"

    def test_they_count(self, urls: tuple[str, str]) -> None:
        """Rows, batches, failures and durations grow as they should; a refused request counts nowhere."""
        before, _ = scrape(urls[1])
        with Client(urls[0], timeout_s=20) as client:
            for rows in (1, 3):
                client.infer("tagged", {"x": np.zeros((rows, 3), np.float32)})
            with pytest.raises(RefusedError):
                client.infer("tagged", {"x": np.zeros((5, 3), np.float32)})
            with pytest.raises(ServerFailedError):
                client.infer("picky", {"x": np.arange(3), "shape": np.array([7])})
        after, _ = scrape(urls[1])
        grown = {
            name: after["nv_inference_" + name, of("tagged")] - before["nv_inference_" + name, of("tagged")]
            for name in (*COUNTERS, "request_duration_us")
        }
        assert grown.pop("request_duration_us") > 0
        assert grown == {"request_success": 2, "count": 4, "exec_count": 2}
        failed = ("nv_inference_request_failure", of("picky", reason="BACKEND"))
        assert after[failed] - before[failed] == 1

    def test_the_machine(self, urls: tuple[str, str]) -> None:
        """Memory and the cores' load are told, in bytes and as a share."""
        samples, _ = scrape(urls[1])
        nothing: frozenset[tuple[str, str]] = frozenset()
        assert 0 < samples["nv_cpu_memory_used_bytes", nothing] < samples["nv_cpu_memory_total_bytes", nothing]
        assert 0 <= samples["nv_cpu_utilization", nothing] <= 1


def test_health(urls: tuple[str, str]) -> None:
    """The server is live and ready; what is not there is 404, and another method 405."""
    answers = [get(f"{urls[1]}{path}")[0] for path in ("/v2/health/live", "/v2/health/ready", "/nothing")]
    assert answers == [200, 200, 404]
    with pytest.raises(urllib.error.HTTPError, match="405") as caught:
        urllib.request.urlopen(f"{urls[1]}/metrics", data=b"", timeout=10)
    caught.value.close()


def test_port_in_use(zoonnx: Zoonnx, tmp_path: Path) -> None:
    """A port that somebody else has is a mistake, told in one sentence."""
    model = write_identity(tmp_path / "model.onnx")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = zoonnx("serve", model, "--grpc-port", 0, "--http-port", port, "--provider", "cpu")
    assert (done.returncode, done.stdout) == (2, "")
    assert (
        done.stderr == f"zoonnx serve: port {port} on 127.0.0.1 is in use: stop what listens there, or give another.\n"
    )
