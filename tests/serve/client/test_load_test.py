"""`zoonnx bench`: its report agrees with the server's own counts."""

import asyncio
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import tritonclient.grpc

from serve.client.load_test import LoadSettings, gather_or_cancel
from serve.errors import SettingsError
from tests.conftest import Zoonnx
from tests.serve.conftest import Serve


@pytest.fixture(scope="module")
def urls(serve: Serve, models: Path) -> Iterator[tuple[str, str]]:
    """The gRPC address of a server, and the URL of its metrics."""
    with serve(models, "--grpc-port", 0, "--http-port", 0, "--provider", "cpu") as process:
        assert process.stdout
        yield process.stdout.readline().split()[-1], process.stdout.readline().split()[-1]


def test_json(zoonnx: Zoonnx, urls: tuple[str, str]) -> None:
    """Rows, percentiles and CPU time are consistent with each other and with the server's own counts."""
    options = ("--url", urls[0], "--metrics", urls[1], "--seconds", 0.5, "--concurrency", 4, "--batch-size", 2)
    done = zoonnx("bench", "--model", "images", *options, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    report = json.loads(done.stdout)
    assert report["rows"] == 2 * report["requests"]
    assert report["rows_per_s"] == pytest.approx(report["rows"] / report["seconds"])
    assert report["seconds"] == 0.5
    latencies = [report["latency_ms"][percentile] for percentile in ("50", "90", "95", "99")]
    assert latencies == sorted(latencies)
    assert 0 < report["cpu_ms_a_request"] < 1000
    mean_ms = report["seconds"] * 1000 * 4 / report["requests"]
    assert latencies[0] < 3 * mean_ms
    with tritonclient.grpc.InferenceServerClient(urls[0]) as client:
        (statistics,) = client.get_inference_statistics("images").model_stats
    assert statistics.inference_stats.success.count > report["requests"]
    assert statistics.inference_count == 2 * statistics.inference_stats.success.count


def test_fixed_rate(zoonnx: Zoonnx, urls: tuple[str, str]) -> None:
    """With --rate, requests start at that rate, evenly spaced."""
    options = ("--url", urls[0], "--seconds", 1, "--concurrency", 4, "--rate", 40, "--json")
    report = json.loads(zoonnx("bench", "--model", "bare", *options).stdout)
    assert 36 <= report["requests"] <= 41
    assert report["seconds"] == pytest.approx(1, rel=0.2)


@pytest.mark.parametrize("columns", [80, 100, 120])
def test_text(zoonnx: Zoonnx, urls: tuple[str, str], columns: int) -> None:
    """Without --json, the report has a line per quantity, which fits the terminal."""
    done = zoonnx(*("bench", "--model", "bare", "--url", urls[0], "--seconds", 0.2), COLUMNS=str(columns))
    assert done.returncode == 0
    assert [text in done.stdout for text in ("rows/s", "p50 ", "p99 ", "CPU")] == [True, True, True, False]
    throughput, latency = done.stdout.splitlines()
    assert re.fullmatch(r"throughput  [\d.]+ rows/s, \d+ requests in 0\.2 s", throughput)
    assert re.fullmatch(r"latency     p50 [\d.]+ ms  p90 [\d.]+ ms  p95 [\d.]+ ms  p99 [\d.]+ ms", latency)
    assert max(len(throughput), len(latency)) <= columns


def test_text_with_cpu_time(zoonnx: Zoonnx, urls: tuple[str, str]) -> None:
    """With --metrics a third line reports the server's CPU time."""
    done = zoonnx("bench", "--model", "bare", "--url", urls[0], "--seconds", 0.2, "--metrics", urls[1])
    assert re.fullmatch(r"server CPU  [\d.]+ ms per request", done.stdout.splitlines()[2])


@pytest.mark.parametrize(
    ("options", "status", "message"),
    [
        (("--model", "nothing"), 2, "there is no model 'nothing'"),
        (("--model", "text"), 2, "is BYTES, for which no random values are generated"),
        (("--model", "picky"), 2, "has a dynamic size"),
        (("--model", "bare", "--batch-size", 5), 2, "accepts batches of up to 4; got 5"),
        (("--model", "bare", "--metrics", "http://127.0.0.1:1/metrics"), 1, "cannot read metrics from"),
        (("--model", "bare", "--seconds", 0), 2, "more than 0 seconds"),
        (("--model", "bare", "--seconds", 1e-9), 2, "no request completed within 1e-09 seconds: measure for longer"),
        (("--model", "bare", "--rate", -1), 2, "the rate must be 0"),
    ],
)
def test_mistakes(
    zoonnx: Zoonnx, urls: tuple[str, str], options: tuple[object, ...], status: int, message: str
) -> None:
    """A load that cannot be generated or measured is reported in one line."""
    done = zoonnx("bench", "--url", urls[0], *options)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (status, "", 1)
    assert message in done.stderr


def test_metrics_must_be_an_http_url() -> None:
    """Metrics are read by HTTP, never from a local file."""
    with pytest.raises(SettingsError, match="file:///etc/passwd"):
        LoadSettings("m", metrics="file:///etc/passwd")


def test_failure_cancels_the_other_requests() -> None:
    """If one coroutine fails, the others are cancelled before its error is raised."""
    cancelled = []

    async def long() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            cancelled.append(True)

    async def failing() -> None:
        await asyncio.sleep(0.01)
        raise SettingsError("no")

    async def run() -> None:
        with pytest.raises(SettingsError, match="no"):
            await gather_or_cancel(long(), failing(), long())
        assert cancelled == [True, True]

    asyncio.run(run())
