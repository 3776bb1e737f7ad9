"""Stopped runs resume to the result of an uninterrupted run."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from tests.conftest import ROOT
from zoo.errors import CheckpointError, InterruptedRunError, SettingsError
from zoo.runs.checkpoint import start_run
from zoo.settings import TrainSettings
from zoo.training.epoch import Step
from zoo.training.resume import check_same_settings
from zoo.training.trainer import train

KILL_AFTER = """
import json, os, signal, sys, torch
from pathlib import Path
from zoo.settings import TrainSettings
from zoo.training.epoch import Step
from zoo.training.trainer import train
torch.set_num_threads(1)
events = []
def observe(event):
    events.append(event)
    if len(events) == int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)
train(TrainSettings.from_json(json.loads(sys.argv[1])), Path(sys.argv[2]), observe)
"""


class StopError(Exception):
    """Stops a run from its observer."""


def stop_after(count):
    """Return an observer that raises StopError at its n-th event."""
    events = []

    def observe(event):
        events.append(event)
        if len(events) == count:
            raise StopError

    return observe


def outcome(run):
    """Return the weights of both checkpoints, and the metrics without times."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    weights = [(run / name / "model.safetensors").read_bytes() for name in ("last", "best")]
    return weights, [{**line, "seconds": 0} for line in lines], (run / "best" / "metrics.json").read_text()


@pytest.fixture(scope="session")
def folder_settings(painted) -> TrainSettings:
    """Settings of three epochs of four steps, with augmented images and dropout."""
    return TrainSettings(
        network="resnet8",
        data=f"folder:{painted}",
        epochs=3,
        batch_size=8,
        drop_rate=0.3,
        rand_augment=5,
        ema_decay=0.8,
        mixup=0.2,
        cutmix=0.5,
        input_size=(3, 16, 16),
        checkpoint_every_steps=2,
        workers=0,
        device="cpu",
    )


@pytest.fixture(scope="session")
def uninterrupted(folder_settings, tmp_path_factory):
    """Return the outcome of `folder_settings` without interruption."""
    run = tmp_path_factory.mktemp("runs") / "uninterrupted"
    train(folder_settings, run)
    return outcome(run)


@pytest.mark.parametrize(("workers", "count"), [pytest.param(0, 8, marks=pytest.mark.slow), (2, 7)])
def test_a_killed_run_resumes_bit_for_bit(folder_settings, uninterrupted, tmp_path, workers, count):
    """A run killed by SIGKILL within an epoch ends with the same outcome."""
    settings, run = replace(folder_settings, workers=workers), tmp_path / "run"
    arguments = [json.dumps(settings.to_json()), str(run), str(count)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    killed = subprocess.run([sys.executable, "-c", KILL_AFTER, *arguments], cwd=ROOT, env=environment, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert (run / "state" / "state.json").exists()
    train(settings, run, resume=True)
    assert outcome(run) == uninterrupted


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 9, 14, 15])
def test_resumes_from_any_event(folder_settings, uninterrupted, tmp_path, count):
    """A run can stop before the first save, at a saved step, between two, after an epoch, and at the end."""
    run = tmp_path / "run"
    with pytest.raises(StopError):
        train(folder_settings, run, stop_after(count))
    train(folder_settings, run, resume=True)
    assert outcome(run) == uninterrupted
    assert not (run / "state").exists()


def test_resumes_from_the_last_save(folder_settings, tmp_path):
    """The run continues from the last saved step, not from the beginning: after seven steps that is the sixth."""
    run, events = tmp_path / "run", []
    with pytest.raises(StopError):
        train(folder_settings, run, stop_after(8))  # seven steps and an epoch
    train(folder_settings, run, events.append, resume=True)
    steps = [(event.epoch, event.batch) for event in events if isinstance(event, Step)]
    assert steps == [(2, 3), (2, 4), (3, 1), (3, 2), (3, 3), (3, 4)]


@pytest.mark.parametrize("optimizer", ["sgd", "lamb", "adamp", "nadamw", "adafactor"])
def test_optimiser_state_is_restored(folder_settings, tmp_path, optimizer):
    """The state includes moments, and step counts of parameters or of groups."""
    settings = replace(folder_settings, optimizer=optimizer, epochs=2)
    train(settings, tmp_path / "uninterrupted")
    with pytest.raises(StopError):
        train(settings, tmp_path / "run", stop_after(3))
    train(settings, tmp_path / "run", resume=True)
    assert outcome(tmp_path / "run") == outcome(tmp_path / "uninterrupted")


@pytest.mark.parametrize("cached", [False, True])
def test_a_tuned_run_resumes(tune_settings, tmp_path, cached):
    """Gradual unfreezing continues where it was; a cached probe resumes too."""
    transfer = replace(tune_settings.transfer, schedule="probe" if cached else "gradual", cached=cached)
    settings = replace(tune_settings, epochs=3, ema_decay=0.5, checkpoint_every_steps=3, transfer=transfer)
    train(settings, tmp_path / "uninterrupted")
    with pytest.raises(StopError):
        train(settings, tmp_path / "run", stop_after(8))
    train(settings, tmp_path / "run", resume=True)
    assert outcome(tmp_path / "run") == outcome(tmp_path / "uninterrupted")


def test_other_settings_are_named(folder_settings, tmp_path):
    """The error has both values of each; the number of workers may differ."""
    run = tmp_path / "run"
    with pytest.raises(StopError):
        train(folder_settings, run, stop_after(5))
    with pytest.raises(SettingsError, match=r"other settings: epochs was 3, now 9; lr was 0.01, now 0.5"):
        train(replace(folder_settings, lr=0.5, epochs=9), run, resume=True)
    train(replace(folder_settings, workers=1, checkpoint_every_steps=0), run, resume=True)


def test_auto_equals_the_device_it_selects(folder_settings, tmp_path, monkeypatch):
    """A run started on `auto` resumes on that device by name, but not where `auto` selects another one."""
    run = tmp_path / "run"
    start_run(run, replace(folder_settings, device="auto"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    check_same_settings(run, replace(folder_settings, device="cpu"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(SettingsError, match="device was auto, now cpu"):
        check_same_settings(run, replace(folder_settings, device="cpu"))


def test_other_images_are_refused(folder_settings, painted, tmp_path):
    """A changed image would change the weights."""
    import shutil

    root, run = shutil.copytree(painted, tmp_path / "colours"), tmp_path / "run"
    settings = replace(folder_settings, data=f"folder:{root}")
    with pytest.raises(StopError):
        train(settings, run, stop_after(5))
    for file in (root / "red").iterdir():
        os.utime(file, (1, 1))
    with pytest.raises(CheckpointError, match=r"the training images of .* have changed since it started"):
        train(settings, run, resume=True)


def test_runs_that_cannot_be_resumed(folder_settings, tmp_path):
    """A missing run, a finished run and a truncated state are refused."""
    with pytest.raises(CheckpointError, match=r"there is no .*config\.json"):
        train(folder_settings, tmp_path / "nothing", resume=True)
    short = replace(folder_settings, epochs=1)
    train(short, tmp_path / "finished")
    with pytest.raises(CheckpointError, match="has finished; there is nothing to resume"):
        train(short, tmp_path / "finished", resume=True)
    with pytest.raises(StopError):
        train(short, tmp_path / "truncated", stop_after(3))
    (tmp_path / "truncated" / "state" / "optimizer.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"the state .* cannot be read"):
        train(short, tmp_path / "truncated", resume=True)


def test_a_state_is_not_pickled(folder_settings, tmp_path):
    """All files of an unfinished run are JSON and safetensors."""
    with pytest.raises(StopError):
        train(folder_settings, tmp_path / "run", stop_after(5))
    kinds = {file.suffix for file in (tmp_path / "run").rglob("*") if file.is_file()}
    assert kinds == {".json", ".jsonl", ".safetensors"}


@pytest.mark.parametrize("workers", [0, 2])
def test_ctrl_c_saves_the_state(folder_settings, uninterrupted, tmp_path, workers):
    """The current step is finished and saved; the error explains how to resume; the signal handler is restored."""
    run, settings = tmp_path / "run", replace(folder_settings, workers=workers, checkpoint_every_steps=0)
    before = signal.getsignal(signal.SIGINT)

    def interrupt(event):
        if isinstance(event, Step) and (event.epoch, event.batch) == (2, 3):
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(
        InterruptedRunError, match=r"in epoch 2 after batch 3 of 4; .* with --resume to continue"
    ) as caught:
        train(settings, run, interrupt)
    assert (caught.value.exit_status, signal.getsignal(signal.SIGINT)) == (130, before)
    assert json.loads((run / "state" / "state.json").read_text())["batch"] == 3
    train(settings, run, resume=True)
    assert outcome(run) == uninterrupted


def test_resume_from_the_command_line(command, folder_settings, uninterrupted, tmp_path):
    """The same command with --resume continues the run; without it nothing is overwritten."""
    run = tmp_path / "run"
    with pytest.raises(StopError):
        train(folder_settings, run, stop_after(6))
    options = [
        "--epochs",
        3,
        "--batch-size",
        8,
        "--drop-rate",
        0.3,
        "--ema-decay",
        0.8,
        "--rand-augment",
        5,
        "--mixup",
        0.2,
        "--cutmix",
        0.5,
        "--input-size",
        "3,16,16",
        "--device",
        "cpu",
    ]
    arguments = ["train", "resnet8", "--data", folder_settings.data, "--out", run, "--workers", 0, *options]
    assert "already holds a run" in command(*arguments).err
    assert command(*arguments, "--resume").status == 0
    assert outcome(run) == uninterrupted
