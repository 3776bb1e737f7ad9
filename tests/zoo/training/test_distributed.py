"""Processes that train together give what one process gives."""

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
from zoo.training.trainer import Step, train

# What each of the processes runs: note every loss in the main one, or die in the middle.
WORKER = """
import json, os, signal, sys, torch
from pathlib import Path
from zoo.settings import TrainSettings
from zoo.training.trainer import Step, train
settings, run, kill_at, resume = json.loads(sys.argv[1])
seen = []
def observe(event):
    if isinstance(event, Step):
        seen.append(event.loss)
    if len(seen) == kill_at:
        os.kill(os.getpid(), signal.SIGKILL)
result = train(TrainSettings.from_json(settings), Path(run), observe, resume=resume)
Path(f"{run}.{os.environ['RANK']}").write_text(json.dumps([seen, result.test_accuracy, result.best.val_loss]))
torch.distributed.destroy_process_group()
"""


def together(settings, run, *, kill_at=0, resume=False):
    """Two processes as torchrun starts them; their exit statuses."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
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


def alone(settings, run):
    """The losses of one process, and what it measured."""
    seen = []
    result = train(settings, run, seen.append)
    return [event.loss for event in seen if isinstance(event, Step)], result.test_accuracy, result.best.val_loss


def told(run, rank):
    """What a process of a team wrote down."""
    return json.loads(run.with_name(f"{run.name}.{rank}").read_text())


def last_weights(run):
    """By name."""
    return safetensors.torch.load_file(run / "last" / "model.safetensors")


@pytest.fixture
def settings() -> TrainSettings:
    """A network without BatchNorm and dropout, on images that move and are mixed, in pieces."""
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
def test_parts_cover_a_batch_once(count, processes):
    """And each place comes with its mirror image, where pairs find each other."""
    parts = [shard_indices(count, process, processes) for process in range(processes)]
    assert sorted(torch.cat(parts).tolist()) == list(range(count))
    for part in parts:
        assert torch.equal(part + part.flip(0), torch.full_like(part, count - 1))


def test_two_processes_learn_what_one_learns(settings, tmp_path):
    """The same losses and weights but for rounding; every test image counted once, in both processes."""
    losses, accuracy, val_loss = alone(settings, tmp_path / "alone")
    assert together(settings, tmp_path / "run") == [0, 0]
    (found, *measured), (silent, *others) = told(tmp_path / "run", 0), told(tmp_path / "run", 1)
    torch.testing.assert_close(torch.tensor(found), torch.tensor(losses), rtol=1e-3, atol=1e-4)
    assert measured == others  # the whole result in each process
    assert measured == pytest.approx([accuracy, val_loss], rel=1e-3)
    assert silent == []  # only the main process is observed
    expected = last_weights(tmp_path / "alone")
    for name, value in last_weights(tmp_path / "run").items():
        torch.testing.assert_close(value, expected[name], rtol=1e-2, atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("schedule", ["gradual", "probe", "cached"])
def test_two_processes_tune(tune_settings, tmp_path, schedule):
    """Frozen parts, and heads on stored features; BatchNorm's statistics stay where all of the backbone is frozen."""
    cached = schedule == "cached"
    transfer = replace(tune_settings.transfer, schedule="probe" if cached else schedule, cached=cached)
    settings = replace(tune_settings, transfer=transfer)
    losses, *_ = alone(settings, tmp_path / "alone")
    assert together(settings, tmp_path / "run") == [0, 0]
    if schedule != "gradual":
        torch.testing.assert_close(
            torch.tensor(told(tmp_path / "run", 0)[0]), torch.tensor(losses), rtol=1e-3, atol=1e-4
        )


@pytest.mark.slow
def test_a_killed_team_goes_on_bit_by_bit(settings, tmp_path):
    """With BatchNorm and dropout; the other process ends when the main one is gone."""
    settings = replace(
        settings,
        network="convnet4",
        drop_rate=0.2,
        batch_size=128,
        epochs=2,
        checkpoint_every_steps=3,
        clip_grad_norm=1.0,
    )
    assert together(settings, tmp_path / "whole") == [0, 0]
    assert together(settings, tmp_path / "run", kill_at=15)[0] == -signal.SIGKILL
    assert together(settings, tmp_path / "run", resume=True) == [0, 0]
    for name in ("last", "best"):
        files = [(tmp_path / run / name / "model.safetensors").read_bytes() for run in ("run", "whole")]
        assert files[0] == files[1]


@pytest.mark.slow
def test_torchrun_starts_the_command(tmp_path):
    """Nothing about it changes; the table is printed once."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    asked = ["-m", "zoonnx", "train", "mlp", "--data", "digits", "--epochs", "1", "--out", str(tmp_path / "run")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*launcher, *asked], cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("test accuracy") == 1
    assert not (tmp_path / "run" / "state").exists()


@pytest.mark.parametrize("option", [["--find-lr"], ["--folds", 3]])
def test_what_runs_in_one_process_says_so(command, tmp_path, monkeypatch, option):
    """Instead of doing it twice."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    said = command("train", "mlp", "--data", "digits", "--out", tmp_path / "run", *option)
    assert (said.status, "run in one process; start them without torchrun" in said.err) == (2, True)
