"""What several tests of zoo share."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

import zoonnx as dispatcher
from zoo.data import Dataset, load_dataset
from zoo.settings import TrainSettings
from zoo.train import train


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Leave the machine's other cores to the other test processes."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def digits() -> Dataset:
    """The digits data set."""
    return load_dataset("digits")


@pytest.fixture(scope="session")
def short_settings() -> TrainSettings:
    """Two epochs of convnet4 on digits, 20 steps each, with pictures that move."""
    return TrainSettings(net="convnet4", data="digits", epochs=2, batch_size=64, max_shift_px=1, device="cpu")


@pytest.fixture(scope="session")
def short_run(short_settings, tmp_path_factory) -> Path:
    """A finished run of `short_settings`, to be read only."""
    run = tmp_path_factory.mktemp("runs") / "short"
    train(short_settings, run)
    return run


@dataclass(frozen=True)
class Said:
    """How a command ended and what it printed."""

    status: int
    out: str
    err: str


@pytest.fixture
def command(capsys) -> Callable[..., Said]:
    """Run `zoonnx VERB ...` in this process, which has imported torch already."""

    def run(*arguments: object) -> Said:
        with pytest.raises(SystemExit) as ended:
            dispatcher.main([str(each) for each in arguments])
        return Said(int(ended.value.code or 0), *capsys.readouterr())

    return run
