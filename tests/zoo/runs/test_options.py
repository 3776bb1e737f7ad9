"""The options that `train` and `tune` share."""

import inspect
from dataclasses import fields

import pytest

from zoo.cli.train import train, tune
from zoo.runs.options import RENAMED, TUNE_DEFAULTS, RunOptions, settings_from
from zoo.settings import TrainSettings

NOT_SHARED = {"network", "data", "transfer", "folds", "fold"}  # each verb has its own options for these


def test_every_setting_has_an_option():
    """Every option has a setting, too."""
    names = {RENAMED.get(name, name) for name in RunOptions.__annotations__}
    assert names == {field.name for field in fields(TrainSettings)} - NOT_SHARED


@pytest.mark.parametrize(("verb", "own"), [(train, {}), (tune, TUNE_DEFAULTS)])
def test_both_verbs_show_every_option_with_its_default(verb, own):
    """A verb's own defaults override those of TrainSettings."""
    parameters = inspect.signature(verb).parameters
    defaults = {field.name: field.default for field in fields(TrainSettings)} | own
    for name in RunOptions.__annotations__:
        assert parameters[name].default == defaults[RENAMED.get(name, name)], name


def test_an_option_becomes_its_setting():
    """An option whose name differs from its setting reaches it too."""
    defaults = {name: inspect.signature(train).parameters[name].default for name in RunOptions.__annotations__}
    settings = settings_from("convnet4", "digits", {**defaults, "max_shift": 2, "lr": 0.5})
    assert settings == TrainSettings(network="convnet4", data="digits", max_shift_px=2, lr=0.5)
