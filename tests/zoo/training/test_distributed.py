"""Distributed training gives the results of a single process."""

import json
import os
import signal
import socket
import subprocess
import sys
from dataclasses import replace

import pytest
import safetensors.torch
import torch

from tests.conftest import ROOT
from zoo.settings import TrainSettings
from zoo.training.distributed import shard_indices
from zoo.training.epoch import Step
from zoo.training.trainer import train

# The program of each process: record every loss in the main one, or be killed in the middle.
WORKER = """
import json, os, signal, sys, torch
from pathlib import Path
from zoo.settings import TrainSettings
from zoo.training.epoch import Step
from zoo.training.trainer import train
settings, run, kill_at, resume = json.loads(sys.argv[1])
losses = []
def observe(event):
    if isinstance(event, Step):
        losses.append(event.loss)
    if len(losses) == kill_at:
        os.kill(os.getpid(), signal.SIGKILL)
result = train(TrainSettings.from_json(settings), Path(run), observe, resume=resume)
Path(f"{run}.{os.environ['RANK']}").write_text(json.dumps([losses, result.test_accuracy, result.best.val_loss]))
torch.distributed.destroy_process_group()
"""


def train_distributed(settings, run, *, kill_at=0, resume=False):
    """Train in two processes, started as by torchrun; return their exit statuses."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    argument = json.dumps([settings.to_json(), str(run), kill_at, resume])
    shared = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", WORKER, argument],
            cwd=ROOT,
            env={**shared, "WORLD_SIZE": "2", "RANK": str(rank), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": "2"},
            stderr=subprocess.DEVNULL if kill_at else None,
        )
        for rank in range(2)
    ]
    try:
        return [process.wait(timeout=120) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()


def train_alone(settings, run):
    """Train in one process; return the losses, the test accuracy and the best validation loss."""
    events = []
    result = train(settings, run, events.append)
    return [event.loss for event in events if isinstance(event, Step)], result.test_accuracy, result.best.val_loss


def record_of(run, rank):
    """Read what a process of `train_distributed` recorded."""
    return json.loads(run.with_name(f"{run.name}.{rank}").read_text())


def last_weights(run):
    """Load the weights of the last checkpoint by name."""
    return safetensors.torch.load_file(run / "last" / "model.safetensors")


@pytest.fixture
def settings() -> TrainSettings:
    """Settings without BatchNorm and dropout, with shifted and mixed images and accumulation steps."""
    return TrainSettings(
        network="mlp",
        data="digits",
        epochs=1,
        batch_size=64,
        lr=1e-3,
        max_shift_px=1,
        mixup=0.3,
        accumulate_steps=2,
        ema_decay=0.9,
        device="cpu",
    )


@pytest.mark.parametrize("count", [1, 2, 7, 64])
@pytest.mark.parametrize("processes", [1, 2, 3])
def test_shards_cover_a_batch_once(count, processes):
    """Each shard is symmetric, so that images mixed in pairs are in the same shard."""
    shards = [shard_indices(count, process, processes) for process in range(processes)]
    assert sorted(torch.cat(shards).tolist()) == list(range(count))
    for shard in shards:
        assert torch.equal(shard + shard.flip(0), torch.full_like(shard, count - 1))


def test_two_processes_match_one(settings, tmp_path):
    """Losses and weights agree up to rounding; every test image counts once, in both processes."""
    losses, accuracy, val_loss = train_alone(settings, tmp_path / "alone")
    assert train_distributed(settings, tmp_path / "run") == [0, 0]
    main_losses, *main_metrics = record_of(tmp_path / "run", 0)
    other_losses, *other_metrics = record_of(tmp_path / "run", 1)
    torch.testing.assert_close(torch.tensor(main_losses), torch.tensor(losses), rtol=1e-3, atol=1e-4)
    assert main_metrics == other_metrics  # each process has the complete result
    assert main_metrics == pytest.approx([accuracy, val_loss], rel=1e-3)
    assert other_losses == []  # only the main process calls the observer
    expected = last_weights(tmp_path / "alone")
    for name, value in last_weights(tmp_path / "run").items():
        torch.testing.assert_close(value, expected[name], rtol=1e-2, atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("schedule", ["gradual", "probe", "cached"])
def test_two_processes_tune(tune_settings, tmp_path, schedule):
    """Losses agree with a frozen backbone, whose BatchNorm statistics do not change; gradual unfreezing runs."""
    cached = schedule == "cached"
    transfer = replace(tune_settings.transfer, schedule="probe" if cached else schedule, cached=cached)
    settings = replace(tune_settings, transfer=transfer)
    losses, *_ = train_alone(settings, tmp_path / "alone")
    assert train_distributed(settings, tmp_path / "run") == [0, 0]
    if schedule != "gradual":
        torch.testing.assert_close(
            torch.tensor(record_of(tmp_path / "run", 0)[0]), torch.tensor(losses), rtol=1e-3, atol=1e-4
        )


@pytest.mark.slow
def test_killed_processes_resume_bit_for_bit(settings, tmp_path):
    """A killed run resumes, with BatchNorm and dropout; the other process ends after the main one was killed."""
    settings = replace(
        settings,
        network="convnet4",
        drop_rate=0.2,
        batch_size=128,
        epochs=2,
        checkpoint_every_steps=3,
        clip_grad_norm=1.0,
    )
    assert train_distributed(settings, tmp_path / "uninterrupted") == [0, 0]
    assert train_distributed(settings, tmp_path / "run", kill_at=15)[0] == -signal.SIGKILL
    assert train_distributed(settings, tmp_path / "run", resume=True) == [0, 0]
    for name in ("last", "best"):
        files = [(tmp_path / run / name / "model.safetensors").read_bytes() for run in ("run", "uninterrupted")]
        assert files[0] == files[1]


@pytest.mark.slow
def test_torchrun_starts_the_command(tmp_path):
    """The command works as usual; the table is printed once."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    arguments = ["-m", "zoonnx", "train", "mlp", "--data", "digits", "--epochs", "1", "--out", str(tmp_path / "run")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    finished = subprocess.run(
        [*launcher, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.count("test accuracy") == 1
    assert not (tmp_path / "run" / "state").exists()


@pytest.mark.parametrize("option", [["--find-lr"], ["--folds", 3]])
def test_single_process_options_are_refused(command, tmp_path, monkeypatch, option):
    """--find-lr and --folds are refused under torchrun instead of running twice."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    finished = command("train", "mlp", "--data", "digits", "--out", tmp_path / "run", *option)
    assert (finished.status, "run in one process; start them without torchrun" in finished.err) == (2, True)
