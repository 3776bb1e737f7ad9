"""A server on the GPU: provider, memory, batching and layer outputs."""

import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import numpy as np
import pytest

from bench.serving import Server, batch_counts
from protos import inference
from serve.client.rpc import METHODS
from serve.client.sync import Client
from tests.gpu.conftest import MAX_BATCH_SIZE, images, max_relative_error, reference_outputs, used_gpu_bytes
from tests.gpu.test_export import TOLERANCES
from zoo.runs.load import LoadedNetwork

pytestmark = pytest.mark.gpu
KINDS = {"cuda": inference.ModelInstanceGroup.KIND_GPU, "cpu": inference.ModelInstanceGroup.KIND_CPU}
BUCKETS = [8, 4, 2, 1]
IMAGES = 40


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_provider(server: Server, device: str, precision: str, log: Path) -> None:
    """ModelConfig and the log name the device, and the log lists the batch sizes that were warmed up."""
    with grpc.insecure_channel(server.url) as channel:
        method = METHODS["ModelConfig"]
        response = channel.unary_unary(method.path)(inference.ModelConfigRequest(name=precision).SerializeToString())
    config = inference.ModelConfigResponse.FromString(response).config
    assert [group.kind for group in config.instance_group] == [KINDS[device]]
    log_text = log.read_text()
    assert f"{precision}, version 1, is loaded on {device}" in log_text
    assert f"batches of {BUCKETS if device == 'cuda' else [1]}" in log_text


def test_gpu_memory_in_use(server: Server, device: str, gpu_bytes_before: int) -> None:
    """The server uses GPU memory; no other process of the tests does."""
    if device == "cuda":
        assert used_gpu_bytes() - gpu_bytes_before > 100 * 2**20


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_batching(server: Server, network: LoadedNetwork, precision: str) -> None:
    """Concurrent requests of one image are batched, and each gets its own response."""
    x = images(IMAGES, network)
    expected = reference_outputs(network, x, "")[""]
    before = batch_counts(server.url, precision)
    with Client(server.url) as client, ThreadPoolExecutor(24) as pool:
        responses = pool.map(lambda image: client.infer(precision, {"image": image[None]}, ["logits"]), x)
        logits = np.concatenate([response["logits"] for response in responses])
    assert max_relative_error(logits, expected) < TOLERANCES[precision]
    sizes = batch_counts(server.url, precision) - before
    assert sum(size * count for size, count in sizes.items()) == IMAGES
    assert 1 < max(sizes) <= MAX_BATCH_SIZE


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_layers_as_outputs(server: Server, network: LoadedNetwork, precision: str) -> None:
    """Layer outputs, requested by path, equal those of PyTorch's modules."""
    x = images(3, network)
    paths = ["layer1.0.bn1", "layer4"]
    with Client(server.url) as client:
        outputs = client.infer(precision, {"image": x}, ["logits", *paths])
    expected = reference_outputs(network, x, "", *paths)
    for name, path in (("logits", ""), *((path, path) for path in paths)):
        assert max_relative_error(outputs[name].astype(np.float64), expected[path]) < TOLERANCES[precision]


def test_cuda_is_missing(models: Path, device: str, zoonnx_command: list[str]) -> None:
    """If the GPU is hidden, `--provider cuda` fails and reports what is missing."""
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    command = [*zoonnx_command, "serve", str(models), "--provider", "cuda", "--grpc-port", "0"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert "zoonnx serve: CUDA cannot be used: " in done.stderr
