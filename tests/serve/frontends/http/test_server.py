"""Tests of the HTTP port: metrics under Triton's names, and health."""

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
PHASES = ("request", "queue", "compute_input", "compute_infer", "compute_output")


@pytest.fixture(scope="module")
def urls(serve: Serve, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """The gRPC address and the HTTP address of a server."""
    folder = tmp_path_factory.mktemp("measured")
    write_identity(folder / "tagged" / "1" / "model.onnx")
    (folder / "tagged" / "config.pbtxt").write_text('max_batch_size: 4 metric_tags { key: "team" value: "vision" }')
    nodes = [helper.make_node("Reshape", ["x", "shape"], ["y"])]
    inputs = [("x", TensorProto.INT64, ["n"]), ("shape", TensorProto.INT64, [1])]
    write_model(folder / "picky" / "1" / "model.onnx", nodes, inputs, [("y", TensorProto.INT64, ["m"])])
    (folder / "picky" / "config.pbtxt").write_text("max_batch_size: 0 input { name: 'x' } input { name: 'shape' }")
    with serve(folder, "--grpc-port", 0, "--http-port", 0, "--provider", "cpu") as process:
        assert process.stdout
        grpc_url = process.stdout.readline().split()[-1]
        prefix, metrics = process.stdout.readline().split()
        assert prefix == "metrics:"
        yield grpc_url, metrics.removesuffix("/metrics")


def get(url: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, timeout=10) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def scrape(http: str) -> tuple[Samples, dict[str, str]]:
    """Return every sample by name and labels, and every metric's type, parsed from the text format."""
    text = get(f"{http}/metrics")[1]
    types = dict(re.findall(r"^# TYPE (\w+) (\w+)$", text, re.MULTILINE))
    samples = {}
    for name, labels, value in re.findall(r"^(\w+)(?:\{(.*)\})? (\S+)$", text, re.MULTILINE):
        samples[name, frozenset(re.findall(r'(\w+)="([^"]*)"', labels))] = float(value)
    return samples, types


def labels_of(model: str, **labels: str) -> frozenset[tuple[str, str]]:
    tags = {"team": "vision"} if model == "tagged" else {}
    return frozenset({"model": model, "version": "1", **tags, **labels}.items())


class TestMetrics:
    """The metrics that Prometheus reads."""

    def test_all_metrics_exist_from_the_start(self, urls: tuple[str, str]) -> None:
        """Each model has each metric under Triton's name and labels with its own tags; counters have the right type."""
        samples, types = scrape(urls[1])
        for model in ("tagged", "picky"):
            for name in (*COUNTERS, *(f"{phase}_duration_us" for phase in PHASES), "pending_request_count"):
                assert (f"nv_inference_{name}", labels_of(model)) in samples
            for reason in ("OTHER", "CANCELED", "BACKEND", "REJECTED"):
                assert ("nv_inference_request_failure", labels_of(model, reason=reason)) in samples
        assert types["nv_inference_count"] == "counter"
        assert types["nv_inference_pending_request_count"] == "gauge"

    def test_counts(self, urls: tuple[str, str]) -> None:
        """Rows, batches, failures and durations grow; a rejected request is not counted."""
        before, _ = scrape(urls[1])
        with Client(urls[0], timeout_s=20) as client:
            for rows in (1, 3):
                client.infer("tagged", {"x": np.zeros((rows, 3), np.float32)})
            with pytest.raises(RefusedError):
                client.infer("tagged", {"x": np.zeros((1, 4), np.float32)})
            with pytest.raises(ServerFailedError):
                client.infer("picky", {"x": np.arange(3), "shape": np.array([7])})
        after, _ = scrape(urls[1])
        increases = {
            name: after["nv_inference_" + name, labels_of("tagged")]
            - before["nv_inference_" + name, labels_of("tagged")]
            for name in (*COUNTERS, "request_duration_us")
        }
        assert increases.pop("request_duration_us") > 0
        assert increases == {"request_success": 2, "count": 4, "exec_count": 2}
        failed = ("nv_inference_request_failure", labels_of("picky", reason="BACKEND"))
        assert after[failed] - before[failed] == 1

    def test_the_machine(self, urls: tuple[str, str]) -> None:
        """The machine's memory is reported in bytes, and the utilisation of its cores as a fraction."""
        samples, _ = scrape(urls[1])
        no_labels: frozenset[tuple[str, str]] = frozenset()
        assert 0 < samples["nv_cpu_memory_used_bytes", no_labels] < samples["nv_cpu_memory_total_bytes", no_labels]
        assert 0 <= samples["nv_cpu_utilization", no_labels] <= 1


def test_health(urls: tuple[str, str]) -> None:
    """The server is live and ready; an unknown path is 404, and another method 405."""
    statuses = [get(f"{urls[1]}{path}")[0] for path in ("/v2/health/live", "/v2/health/ready", "/nothing")]
    assert statuses == [200, 200, 404]
    with pytest.raises(urllib.error.HTTPError, match="405") as caught:
        urllib.request.urlopen(f"{urls[1]}/metrics", data=b"", timeout=10)
    caught.value.close()


def test_port_in_use(zoonnx: Zoonnx, tmp_path: Path) -> None:
    """A port in use is a user error, reported in one sentence."""
    model = write_identity(tmp_path / "model.onnx")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = zoonnx("serve", model, "--grpc-port", 0, "--http-port", port, "--provider", "cpu")
    assert (done.returncode, done.stdout) == (2, "")
    message = f"port {port} on 127.0.0.1 is in use: stop the process that listens there, or choose another port."
    assert done.stderr == f"zoonnx serve: {message}\n"
