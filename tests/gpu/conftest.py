"""Fixtures of the tests on a GPU. With `ZOONNX_GPU_TESTS_ON=cpu` the tests run on the CPU, as a dry run."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from bench.common import zoonnx
from bench.gpu import convert_to_fp16
from bench.serving import Server, serving
from serve.wire.tensors import Array
from zoo.runs.load import LoadedNetwork, load_network

NETWORK, MAX_BATCH_SIZE = "test_resnet", 8


@pytest.fixture(scope="session")
def device() -> str:
    """The device under test: cuda, or cpu in a dry run."""
    return os.environ.get("ZOONNX_GPU_TESTS_ON", "cuda")


@pytest.fixture(scope="session")
def network() -> LoadedNetwork:
    """The network of `models`, with the same random weights."""
    return load_network(NETWORK, seed=0)


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with one small network, exported as fp32 and converted to fp16."""
    folder = tmp_path_factory.mktemp("models")
    zoonnx("export", NETWORK, "--to", folder, "--name", "fp32", "--max-batch-size", MAX_BATCH_SIZE)
    convert_to_fp16(folder / "fp32", folder / "fp16")
    return folder


@pytest.fixture(scope="session")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of the server's log."""
    return tmp_path_factory.mktemp("log") / "server.log"


@pytest.fixture(scope="session")
def gpu_bytes_before(device: str) -> int:
    """The GPU memory in use before the server started, in bytes."""
    return used_gpu_bytes() if device == "cuda" else 0


@pytest.fixture(scope="session")
def server(models: Path, device: str, log: Path, gpu_bytes_before: int) -> Iterator[Server]:
    """A server of `models` on the device under test."""
    with log.open("w") as file, serving(models, "--provider", device, log=file.fileno()) as server:
        yield server


@pytest.fixture(scope="session")
def zoonnx_command() -> list[str]:
    """The `zoonnx` command, run by the interpreter of the tests."""
    return [sys.executable, "-m", "zoonnx"]


def used_gpu_bytes() -> int:
    """Return the GPU memory that all processes use, in bytes."""
    free, total = torch.cuda.mem_get_info()
    return total - free


def images(count: int, loaded: LoadedNetwork, seed: int = 0) -> Array:
    """Return random images of the network's input size: uint8, (N, H, W, C)."""
    channels, height, width = loaded.preprocessing.input_size
    return np.random.default_rng(seed).integers(0, 256, (count, height, width, channels), np.uint8)


def reference_outputs(loaded: LoadedNetwork, images: Array, *paths: str) -> dict[str, Array]:
    """Return the outputs of modules in PyTorch, in float64 on the CPU, by path; '' is the network itself."""
    outputs: dict[str, Array] = {}
    modules = dict(loaded.network.double().named_modules())
    handles = [
        modules[path].register_forward_hook(
            lambda _m, _i, output, path=path: outputs.update({path: output.numpy().copy()})
        )
        for path in paths
    ]
    with torch.no_grad():
        loaded.network(loaded.preprocessing.normalise(torch.from_numpy(images)).double())
    for handle in handles:
        handle.remove()
    return outputs


def max_relative_error(actual: Array, expected: Array) -> float:
    """Return the largest difference, relative to the largest expected value."""
    return float(np.abs(actual - expected).max() / np.abs(expected).max())
