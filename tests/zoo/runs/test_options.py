"""Each option of `train` and `tune` stands once and reaches its setting."""

import inspect
from dataclasses import fields

import pytest

from zoo.cli.train import train, tune
from zoo.runs.options import RENAMED, TUNE_DEFAULTS, RunOptions, settings_from
from zoo.settings import TrainSettings

APART = {"network", "data", "transfer", "folds", "fold"}  # what a verb says in its own way


def test_every_setting_has_an_option():
    """And no option goes nowhere."""
    names = {RENAMED.get(name, name) for name in RunOptions.__annotations__}
    assert names == {each.name for each in fields(TrainSettings)} - APART


@pytest.mark.parametrize(("verb", "own"), [(train, {}), (tune, TUNE_DEFAULTS)])
def test_both_verbs_show_every_option_with_its_default(verb, own):
    """A verb's own defaults go before those of TrainSettings."""
    shown = inspect.signature(verb).parameters
    standard = {each.name: each.default for each in fields(TrainSettings)} | own
    for name in RunOptions.__annotations__:
        assert shown[name].default == standard[RENAMED.get(name, name)], name


def test_an_option_arrives_as_its_setting():
    """Under the setting's name."""
    defaults = {name: inspect.signature(train).parameters[name].default for name in RunOptions.__annotations__}
    settings = settings_from("convnet4", "digits", {**defaults, "max_shift": 2, "lr": 0.5})
    assert settings == TrainSettings(network="convnet4", data="digits", max_shift_px=2, lr=0.5)
