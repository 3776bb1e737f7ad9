"""What trackers are told."""

import json
from dataclasses import replace

import pytest

from zoo.errors import SettingsError
from zoo.training.trainer import Step, train


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard_holds_what_was_measured(short_settings, tmp_path):
    """Every step's loss and rate, every epoch's accuracy, the settings; and the run is the same."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    seen, run = [], tmp_path / "run"
    train(replace(short_settings, track="tensorboard"), run, seen.append)
    steps = [event for event in seen if isinstance(event, Step)]
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
def test_a_missing_tracker_says_what_brings_it(short_settings, tmp_path, monkeypatch, track):
    """Before anything is written."""
    monkeypatch.setattr("zoo.training.trackers.importlib.util.find_spec", lambda name: None)
    with pytest.raises(SettingsError, match=rf"'{track}' is not installed; pip install 'zoonnx\[{track}\]' brings it"):
        train(replace(short_settings, track=track), tmp_path / "run")
    assert not (tmp_path / "run").exists()
