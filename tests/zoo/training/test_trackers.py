"""Experiment trackers."""

import json
from dataclasses import replace

import pytest

from zoo.errors import SettingsError
from zoo.training.epoch import Step
from zoo.training.trainer import train


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard_receives_the_metrics(short_settings, tmp_path):
    """TensorBoard has each step's loss and learning rate, each epoch's accuracy, and the settings."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    observed, run = [], tmp_path / "run"
    train(replace(short_settings, track="tensorboard"), run, observed.append)
    steps = [event for event in observed if isinstance(event, Step)]
    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("loss")] == list(range(1, len(steps) + 1))
    assert [event.value for event in events.Scalars("loss")] == pytest.approx([step.loss for step in steps])
    assert [event.value for event in events.Scalars("lr")] == pytest.approx([step.lr for step in steps])
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [event.value for event in events.Scalars("val_accuracy")] == pytest.approx(
        [line["val_accuracy"] for line in lines]
    )
    assert "network: convnet4" in next(run.rglob("hparams.yml")).read_text()


@pytest.mark.parametrize("track", ["wandb", "mlflow"])
def test_a_missing_tracker_names_its_extra(short_settings, tmp_path, monkeypatch, track):
    """The error comes before anything is written."""
    monkeypatch.setattr("zoo.training.trackers.importlib.util.find_spec", lambda name: None)
    with pytest.raises(SettingsError, match=rf"'{track}' is not installed; run: pip install 'zoonnx\[{track}\]'"):
        train(replace(short_settings, track=track), tmp_path / "run")
    assert not (tmp_path / "run").exists()
