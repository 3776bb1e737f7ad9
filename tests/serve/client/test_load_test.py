"""`zoonnx bench`: what it measures is what the server counts."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import tritonclient.grpc

from serve.client.load_test import LoadSettings, all_of
from serve.errors import SettingsError
from tests.conftest import Zoonnx
from tests.serve.conftest import Serve


@pytest.fixture(scope="module")
def urls(serve: Serve, models: Path) -> Iterator[tuple[str, str]]:
    """A server's gRPC address, and its metrics'."""
    with serve(models, "--grpc-port", 0, "--http-port", 0, "--provider", "cpu") as process:
        assert process.stdout
        yield process.stdout.readline().split()[-1], process.stdout.readline().split()[-1]


def test_json(zoonnx: Zoonnx, urls: tuple[str, str]) -> None:
    """Rows, percentiles and the server's CPU time, in agreement with each other and with the server's own counts."""
    options = ("--url", urls[0], "--metrics", urls[1], "--seconds", 0.5, "--concurrency", 4, "--batch-size", 2)
    done = zoonnx("bench", "--model", "images", *options, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    report = json.loads(done.stdout)
    assert report["rows"] == 2 * report["requests"]
    assert report["rows_per_s"] == pytest.approx(report["rows"] / report["seconds"])
    assert report["seconds"] == 0.5
    latencies = [report["latency_ms"][each] for each in ("50", "90", "95", "99")]
    assert latencies == sorted(latencies)
    assert 0 < report["cpu_ms_a_request"] < 1000
    mean_ms = report["seconds"] * 1000 * 4 / report["requests"]
    assert latencies[0] < 3 * mean_ms
    with tritonclient.grpc.InferenceServerClient(urls[0]) as client:
        (counted,) = client.get_inference_statistics("images").model_stats
    assert counted.inference_stats.success.count > report["requests"]
    assert counted.inference_count == 2 * counted.inference_stats.success.count


def test_a_rate_is_kept(zoonnx: Zoonnx, urls: tuple[str, str]) -> None:
    """With --rate requests begin evenly, as many a second as were asked for."""
    options = ("--url", urls[0], "--seconds", 1, "--concurrency", 4, "--rate", 40, "--json")
    report = json.loads(zoonnx("bench", "--model", "bare", *options).stdout)
    assert 36 <= report["requests"] <= 41
    assert report["seconds"] == pytest.approx(1, rel=0.2)


def test_words(zoonnx: Zoonnx, urls: tuple[str, str]) -> None:
    """Without --json three lines say it."""
    done = zoonnx("bench", "--model", "bare", "--url", urls[0], "--seconds", 0.2)
    assert done.returncode == 0
    assert [word in done.stdout for word in ("rows a second", "p50 ", "p99 ", "CPU")] == [True, True, True, False]


@pytest.mark.parametrize(
    ("options", "status", "words"),
    [
        (("--model", "nothing"), 2, "there is no model 'nothing'"),
        (("--model", "text"), 2, "takes BYTES"),
        (("--model", "picky"), 2, "has a free size"),
        (("--model", "bare", "--batch-size", 5), 2, "takes batches of up to 4; got 5"),
        (("--model", "bare", "--metrics", "http://127.0.0.1:1/metrics"), 1, "no metrics come from"),
        (("--model", "bare", "--seconds", 0), 2, "more than 0 seconds"),
        (("--model", "bare", "--seconds", 1e-9), 2, "no request was answered within 1e-09 seconds: measure for longer"),
        (("--model", "bare", "--rate", -1), 2, "the rate must be 0"),
    ],
)
def test_mistakes(zoonnx: Zoonnx, urls: tuple[str, str], options: tuple[object, ...], status: int, words: str) -> None:
    """What cannot be measured is one sentence."""
    done = zoonnx("bench", "--url", urls[0], *options)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (status, "", 1)
    assert words in done.stderr


def test_settings() -> None:
    """Metrics are fetched by HTTP, never from a file."""
    with pytest.raises(SettingsError, match="file:///etc/passwd"):
        LoadSettings("m", metrics="file:///etc/passwd")


def test_nothing_goes_on_after_a_failure() -> None:
    """Where one request fails, those beside it are ended before the error is told."""
    ended = []

    async def long() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            ended.append(True)

    async def failing() -> None:
        await asyncio.sleep(0.01)
        raise SettingsError("no")

    async def together() -> None:
        with pytest.raises(SettingsError, match="no"):
            await all_of(long(), failing(), long())
        assert ended == [True, True]

    asyncio.run(together())
