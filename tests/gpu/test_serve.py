"""A server on the GPU: really there, batching, with its layers."""

import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import numpy as np
import pytest

from bench.serving import Server, executions
from protos import inference
from serve.client.sync import METHODS, Client
from tests.gpu.conftest import LARGEST, images, in_pytorch, used_gpu_bytes, worst
from tests.gpu.test_export import TOLERANCES
from zoo.runs.load import LoadedNetwork

pytestmark = pytest.mark.gpu
KINDS = {"cuda": inference.ModelInstanceGroup.KIND_GPU, "cpu": inference.ModelInstanceGroup.KIND_CPU}
BUCKETS = [8, 4, 2, 1]
COUNT = 40


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_the_provider_is_the_device(server: Server, device: str, precision: str, log: Path) -> None:
    """ModelConfig and the log both name it, and each bucket was warmed up."""
    with grpc.insecure_channel(server.url) as channel:
        method = METHODS["ModelConfig"]
        answer = channel.unary_unary(method.path)(inference.ModelConfigRequest(name=precision).SerializeToString())
    config = inference.ModelConfigResponse.FromString(answer).config
    assert [group.kind for group in config.instance_group] == [KINDS[device]]
    said = log.read_text()
    assert f"{precision}, version 1, is loaded on {device}" in said
    assert f"batches of {BUCKETS if device == 'cuda' else [1]}" in said


def test_the_gpu_holds_the_model(server: Server, device: str, gpu_bytes_before: int) -> None:
    """The server's process takes memory of the GPU; nothing else here does."""
    if device == "cuda":
        assert used_gpu_bytes() - gpu_bytes_before > 100 * 2**20


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_batching(server: Server, network: LoadedNetwork, precision: str) -> None:
    """Single images asked for at the same time go together, and each has its own answer."""
    x = images(COUNT, network)
    expected = in_pytorch(network, x, "")[""]
    before = executions(server.url, precision)
    with Client(server.url) as client, ThreadPoolExecutor(24) as pool:
        answers = pool.map(lambda one: client.infer(precision, {"image": one[None]}, ["logits"])["logits"], x)
        found = np.concatenate(list(answers))
    assert worst(found, expected) < TOLERANCES[precision]
    sizes = executions(server.url, precision) - before
    assert sum(size * count for size, count in sizes.items()) == COUNT
    assert 1 < max(sizes) <= LARGEST


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_layers_as_outputs(server: Server, network: LoadedNetwork, precision: str) -> None:
    """Layers by their paths are what PyTorch's hooks see."""
    x = images(3, network)
    paths = ["layer1.0.bn1", "layer4"]
    with Client(server.url) as client:
        found = client.infer(precision, {"image": x}, ["logits", *paths])
    expected = in_pytorch(network, x, "", *paths)
    for name, path in (("logits", ""), *((path, path) for path in paths)):
        assert worst(found[name].astype(np.float64), expected[path]) < TOLERANCES[precision]


def test_cuda_where_there_is_none(models: Path, device: str, zoonnx_command: list[str]) -> None:
    """With the GPU hidden, `--provider cuda` does not start, and says what is missing."""
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    command = [*zoonnx_command, "serve", str(models), "--provider", "cuda", "--grpc-port", "0"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert "zoonnx serve: CUDA cannot be used: " in done.stderr
