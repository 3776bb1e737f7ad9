"""What the tests on a GPU share. `ZOONNX_GPU_TESTS_ON=cpu` tries them out where there is none."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bench.common import zoonnx
from bench.gpu import half_precision
from bench.serving import Server, serving
from zoo.runs.load import LoadedNetwork, load_network

NET, LARGEST = "test_resnet", 8
Array = np.ndarray[Any, Any]


@pytest.fixture(scope="session")
def device() -> str:
    """The device under test: cuda, unless the tests themselves are tried out."""
    return os.environ.get("ZOONNX_GPU_TESTS_ON", "cuda")


@pytest.fixture(scope="session")
def network() -> LoadedNetwork:
    """The backbone that `models` holds, with the same random weights."""
    return load_network(NET, seed=0)


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One small backbone, exported, and converted to fp16."""
    place = tmp_path_factory.mktemp("models")
    zoonnx("export", NET, "--to", place, "--name", "fp32", "--max-batch-size", LARGEST)
    half_precision(place / "fp32", place / "fp16")
    return place


@pytest.fixture(scope="session")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the server's log goes."""
    return tmp_path_factory.mktemp("log") / "server.log"


@pytest.fixture(scope="session")
def gpu_bytes_before(device: str) -> int:
    """How much of the GPU's memory was in use before the server started."""
    return used_gpu_bytes() if device == "cuda" else 0


@pytest.fixture(scope="session")
def server(models: Path, device: str, log: Path, gpu_bytes_before: int) -> Iterator[Server]:
    """A server of `models` on the device under test."""
    with log.open("w") as file, serving(models, "--provider", device, log=file.fileno()) as server:
        yield server


@pytest.fixture(scope="session")
def zoonnx_command() -> list[str]:
    """How the command is run by the interpreter that runs the tests."""
    return [sys.executable, "-m", "zoonnx"]


def used_gpu_bytes() -> int:
    """How much of the GPU's memory all processes use."""
    free, total = torch.cuda.mem_get_info()
    return total - free


def images(count: int, loaded: LoadedNetwork, seed: int = 0) -> Array:
    """Random images of the network's size."""
    channels, height, width = loaded.preprocessing.input_size
    return np.random.default_rng(seed).integers(0, 256, (count, height, width, channels), np.uint8)


def in_pytorch(loaded: LoadedNetwork, array: Array, *paths: str) -> dict[str, Array]:
    """What modules give in PyTorch on the CPU, in float64, by their own hooks; '' is the network."""
    seen: dict[str, Array] = {}
    modules = dict(loaded.network.double().named_modules())
    handles = [
        modules[path].register_forward_hook(
            lambda _m, _i, output, path=path: seen.update({path: output.numpy().copy()})
        )
        for path in paths
    ]
    with torch.no_grad():
        loaded.network(loaded.preprocessing.normalise(torch.from_numpy(array)).double())
    for handle in handles:
        handle.remove()
    return seen


def worst(found: Array, expected: Array) -> float:
    """The largest difference, as a share of the largest value."""
    return float(np.abs(found - expected).max() / np.abs(expected).max())
