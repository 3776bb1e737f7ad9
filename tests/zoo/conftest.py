"""Fixtures shared by the tests of zoo."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image

import zoonnx as dispatcher
from zoo.catalog import create_model
from zoo.data.dataset import Dataset
from zoo.data.registry import load_dataset
from zoo.settings import TrainSettings, Transfer
from zoo.training.trainer import train


@pytest.fixture(scope="session")
def digits() -> Dataset:
    """The digits dataset."""
    return load_dataset("digits")


@pytest.fixture(scope="session")
def short_settings() -> TrainSettings:
    """Settings for two epochs of convnet4 on digits, 20 steps each, with randomly shifted images."""
    return TrainSettings(network="convnet4", data="digits", epochs=2, batch_size=64, max_shift_px=1, device="cpu")


@pytest.fixture(scope="session")
def short_run(short_settings, tmp_path_factory) -> Path:
    """A finished run of `short_settings`; tests must not change it."""
    run = tmp_path_factory.mktemp("runs") / "short"
    train(short_settings, run)
    return run


def write_noise(folder: Path, count: int, colour: tuple[int, int, int], size=(40, 30), seed: int = 0) -> None:
    """Write `count` noisy images whose mean is about `colour`, named 000.png and so on, into a new folder."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    for index in range(count):
        pixels = np.clip(rng.normal(colour, 40, (size[1], size[0], 3)), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{index:03d}.png")


@pytest.fixture(scope="session")
def paint() -> Callable[..., None]:
    """Return `write_noise`: `paint(folder, count, colour, size, seed)`."""
    return write_noise


@pytest.fixture(scope="session")
def painted(tmp_path_factory) -> Path:
    """An image folder with two classes of twenty images, red and blue; tests must not change it."""
    root = tmp_path_factory.mktemp("images") / "colours"
    write_noise(root / "red", 20, (200, 60, 60))
    write_noise(root / "blue", 20, (60, 60, 200), seed=1)
    return root


@pytest.fixture(scope="session")
def weights_file(tmp_path_factory) -> Path:
    """A file of random weights of test_resnet, with BatchNorm statistics of one batch."""
    torch.manual_seed(7)
    network = create_model("test_resnet").train()
    network(torch.randn(8, 3, 32, 32))
    file = tmp_path_factory.mktemp("weights") / "resnet.safetensors"
    safetensors.torch.save_file({name: value.contiguous() for name, value in network.state_dict().items()}, file)
    return file


@pytest.fixture(scope="session")
def tune_settings(painted, weights_file) -> TrainSettings:
    """Settings for two short epochs of test_resnet with a new linear head."""
    return TrainSettings(
        network="test_resnet",
        data=f"folder:{painted}",
        epochs=2,
        batch_size=8,
        input_size=(3, 32, 32),
        layer_decay=0.75,
        workers=0,
        device="cpu",
        transfer=Transfer(pretrained_file=str(weights_file)),
    )


@dataclass(frozen=True)
class CommandResult:
    """The exit status and the output of a command."""

    status: int
    out: str
    err: str


@pytest.fixture
def command(capsys) -> Callable[..., CommandResult]:
    """Return a function that runs `zoonnx VERB ...` in this process, which has imported torch already."""

    def run(*arguments: object) -> CommandResult:
        with pytest.raises(SystemExit) as exit_info:
            dispatcher.main([str(argument) for argument in arguments])
        return CommandResult(int(exit_info.value.code or 0), *capsys.readouterr())

    return run
