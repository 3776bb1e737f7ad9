"""Settings of a training run."""

import json

import pytest

from zoo.errors import SettingsError
from zoo.settings import TrainSettings


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": 0}, "epochs must be 1 or more; got 0"),
        ({"batch_size": 0}, "batch_size must be 1 or more; got 0"),
        ({"lr": 0.0}, "lr must be greater than 0; got 0.0"),
        ({"lr": float("nan")}, "lr must be greater than 0; got nan"),
        ({"weight_decay": -0.1}, "weight_decay must be 0 or more; got -0.1"),
        ({"label_smoothing": 1.0}, "label_smoothing must be at least 0 and less than 1; got 1.0"),
        ({"drop_rate": -0.5}, "drop_rate must be at least 0 and less than 1; got -0.5"),
        ({"max_shift_px": -1}, "max_shift_px must be 0 or more; got -1"),
        ({"seed": -1}, r"seed must be at least 0 and less than 2\*\*32; got -1"),
        ({"device": "tpu"}, "device must be one of auto, cpu, cuda, mps; got tpu"),
    ],
)
def test_refuses_values_out_of_range(change, message):
    """Each error names the setting, the expected range and the value."""
    with pytest.raises(SettingsError, match=message):
        TrainSettings(network="convnet4", data="digits", **change)


def test_json_round_trip():
    """Settings written to JSON and read back are equal."""
    settings = TrainSettings(network="convnet4", data="digits", seed=7, lr=0.5, device="cpu")
    assert TrainSettings.from_json(json.loads(json.dumps(settings.to_json()))) == settings


def test_unknown_setting_is_refused():
    """A misspelt name is an error."""
    with pytest.raises(SettingsError, match="there is no setting 'epoch'; did you mean 'epochs'"):
        TrainSettings.from_json({"network": "convnet4", "data": "digits", "epoch": 3})


@pytest.mark.parametrize(
    "values", [{"network": "convnet4"}, {"network": "convnet4", "data": "digits", "epochs": "ten"}]
)
def test_missing_or_mistyped_setting_is_refused(values):
    """A missing setting, or text in place of a number, is an error."""
    with pytest.raises(SettingsError, match="a setting is missing or of the wrong type"):
        TrainSettings.from_json(values)
