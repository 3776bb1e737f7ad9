"""Runs that are stopped go on as if they had not been."""

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
from zoo.training.resume import check_same_settings
from zoo.training.trainer import Step, train

KILL_AFTER = """
import json, os, signal, sys, torch
from pathlib import Path
from zoo.settings import TrainSettings
from zoo.training.trainer import Step, train
torch.set_num_threads(1)
seen = []
def observe(event):
    seen.append(event)
    if len(seen) == int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)
train(TrainSettings.from_json(json.loads(sys.argv[1])), Path(sys.argv[2]), observe)
"""


class StopError(Exception):
    """Whatever ends a process."""


def stop_after(count):
    """An observer that raises at its n-th event."""
    seen = []

    def observe(event):
        seen.append(event)
        if len(seen) == count:
            raise StopError

    return observe


def outcome(run):
    """Weights of both checkpoints, and the metrics without times."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    weights = [(run / name / "model.safetensors").read_bytes() for name in ("last", "best")]
    return weights, [{**line, "seconds": 0} for line in lines], (run / "best" / "metrics.json").read_text()


@pytest.fixture(scope="session")
def folder_settings(painted) -> TrainSettings:
    """Three epochs of four steps, on augmented images, with dropout."""
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
def whole(folder_settings, tmp_path_factory):
    """What comes of `folder_settings` without a stop."""
    run = tmp_path_factory.mktemp("runs") / "whole"
    train(folder_settings, run)
    return outcome(run)


@pytest.mark.parametrize(("workers", "count"), [pytest.param(0, 8, marks=pytest.mark.slow), (2, 7)])
def test_a_killed_run_goes_on_bit_by_bit(folder_settings, whole, tmp_path, workers, count):
    """Killed by the system in the middle of an epoch, without a word."""
    settings, run = replace(folder_settings, workers=workers), tmp_path / "run"
    arguments = [json.dumps(settings.to_json()), str(run), str(count)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", KILL_AFTER, *arguments], cwd=ROOT, env=environment, check=False)
    assert done.returncode == -signal.SIGKILL
    assert (run / "state" / "state.json").exists()
    train(settings, run, resume=True)
    assert outcome(run) == whole


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 9, 14, 15])
def test_wherever_it_stops_it_goes_on(folder_settings, whole, tmp_path, count):
    """Before anything was saved, at a saved step, between two, at an epoch's end, at the very end."""
    run = tmp_path / "run"
    with pytest.raises(StopError):
        train(folder_settings, run, stop_after(count))
    train(folder_settings, run, resume=True)
    assert outcome(run) == whole
    assert not (run / "state").exists()


def test_it_goes_on_where_it_was_saved(folder_settings, tmp_path):
    """Not from the beginning: after seven steps the sixth is the last one saved."""
    run, seen = tmp_path / "run", []
    with pytest.raises(StopError):
        train(folder_settings, run, stop_after(8))  # seven steps and an epoch
    train(folder_settings, run, seen.append, resume=True)
    steps = [(event.epoch, event.batch) for event in seen if isinstance(event, Step)]
    assert steps == [(2, 3), (2, 4), (3, 1), (3, 2), (3, 3), (3, 4)]


@pytest.mark.parametrize("optimizer", ["sgd", "lamb", "adamp", "nadamw", "adafactor"])
def test_optimisers_keep_their_memory(folder_settings, tmp_path, optimizer):
    """Moments, and counts of steps of parameters or of groups."""
    settings = replace(folder_settings, optimizer=optimizer, epochs=2)
    train(settings, tmp_path / "whole")
    with pytest.raises(StopError):
        train(settings, tmp_path / "run", stop_after(3))
    train(settings, tmp_path / "run", resume=True)
    assert outcome(tmp_path / "run") == outcome(tmp_path / "whole")


@pytest.mark.parametrize("cached", [False, True])
def test_a_tuned_run_goes_on(tune_settings, tmp_path, cached):
    """Frozen and unfrozen again where it was; a probe on stored features."""
    transfer = replace(tune_settings.transfer, schedule="probe" if cached else "gradual", cached=cached)
    settings = replace(tune_settings, epochs=3, ema_decay=0.5, checkpoint_every_steps=3, transfer=transfer)
    train(settings, tmp_path / "whole")
    with pytest.raises(StopError):
        train(settings, tmp_path / "run", stop_after(8))
    train(settings, tmp_path / "run", resume=True)
    assert outcome(tmp_path / "run") == outcome(tmp_path / "whole")


def test_other_settings_are_named(folder_settings, tmp_path):
    """Each with both values; the number of workers may differ."""
    run = tmp_path / "run"
    with pytest.raises(StopError):
        train(folder_settings, run, stop_after(5))
    with pytest.raises(SettingsError, match=r"other settings: epochs was 3, now 9; lr was 0.01, now 0.5"):
        train(replace(folder_settings, lr=0.5, epochs=9), run, resume=True)
    train(replace(folder_settings, workers=1, checkpoint_every_steps=0), run, resume=True)


def test_auto_is_the_device_that_it_stands_for(folder_settings, tmp_path, monkeypatch):
    """A run that began on it goes on with it by name; on another machine, where auto is another, it does not."""
    run = tmp_path / "run"
    start_run(run, replace(folder_settings, device="auto"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    check_same_settings(run, replace(folder_settings, device="cpu"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(SettingsError, match="device was auto, now cpu"):
        check_same_settings(run, replace(folder_settings, device="cpu"))


def test_other_images_are_refused(folder_settings, painted, tmp_path):
    """An image that changed would change the weights."""
    import shutil

    root, run = shutil.copytree(painted, tmp_path / "colours"), tmp_path / "run"
    settings = replace(folder_settings, data=f"folder:{root}")
    with pytest.raises(StopError):
        train(settings, run, stop_after(5))
    for file in (root / "red").iterdir():
        os.utime(file, (1, 1))
    with pytest.raises(CheckpointError, match=r"the training images of .* have changed since it began"):
        train(settings, run, resume=True)


def test_what_cannot_be_resumed(folder_settings, tmp_path):
    """No run, a run that has ended, a state cut short."""
    with pytest.raises(CheckpointError, match=r"there is no .*config\.json"):
        train(folder_settings, tmp_path / "nothing", resume=True)
    short = replace(folder_settings, epochs=1)
    train(short, tmp_path / "ended")
    with pytest.raises(CheckpointError, match="has ended; there is nothing to resume"):
        train(short, tmp_path / "ended", resume=True)
    with pytest.raises(StopError):
        train(short, tmp_path / "cut", stop_after(3))
    (tmp_path / "cut" / "state" / "optimizer.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"the state .* cannot be read"):
        train(short, tmp_path / "cut", resume=True)


def test_a_state_is_not_pickled(folder_settings, tmp_path):
    """JSON and safetensors."""
    with pytest.raises(StopError):
        train(folder_settings, tmp_path / "run", stop_after(5))
    kinds = {file.suffix for file in (tmp_path / "run").rglob("*") if file.is_file()}
    assert kinds == {".json", ".jsonl", ".safetensors"}


@pytest.mark.parametrize("workers", [0, 2])
def test_ctrl_c_saves_and_says_how_to_go_on(folder_settings, whole, tmp_path, workers):
    """The step is finished first; nothing of it is lost; Ctrl-C means what it meant before."""
    run, settings = tmp_path / "run", replace(folder_settings, workers=workers, checkpoint_every_steps=0)
    before = signal.getsignal(signal.SIGINT)

    def interrupt(event):
        if isinstance(event, Step) and (event.epoch, event.batch) == (2, 3):
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(InterruptedRunError, match=r"in epoch 2 after batch 3 of 4; .* with --resume goes on") as caught:
        train(settings, run, interrupt)
    assert (caught.value.exit_status, signal.getsignal(signal.SIGINT)) == (130, before)
    assert json.loads((run / "state" / "state.json").read_text())["batch"] == 3
    train(settings, run, resume=True)
    assert outcome(run) == whole


def test_resume_from_the_command_line(command, folder_settings, whole, tmp_path):
    """The same command once more."""
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
    asked = ["train", "resnet8", "--data", folder_settings.data, "--out", run, "--workers", 0, *options]
    assert "already holds a run" in command(*asked).err
    assert command(*asked, "--resume").status == 0
    assert outcome(run) == whole
