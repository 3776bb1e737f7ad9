"""The command that repeats a run."""

import contextlib
import shlex
from pathlib import Path
from types import UnionType
from typing import Literal, get_args, get_origin, get_type_hints

import pytest

from zoo.errors import SettingsError
from zoo.report.command import command, public, shown_run
from zoo.runs.options import RENAMED, RunOptions
from zoo.settings import TrainSettings, Transfer

SETTINGS = [
    TrainSettings(network="convnet4", data="digits"),
    TrainSettings(
        network="resnet8",
        data="folder:my images; rm -rf",
        epochs=3,
        optimizer="sgd",
        lr=1e-4,
        flip=0.0,
        min_crop=0.5,
        max_shift_px=2,
        mixup=0.2,
        input_size=(3, 20, 30),
        bad_images="skip",
        workers=0,
        seed=9,
        device="cpu",
        ema_decay=0.99,
    ),
    TrainSettings(network="resnet18", data="digits", lr=2e-3, weight_decay=0.05, layer_decay=0.75, transfer=Transfer()),
    TrainSettings(
        network="runs/one",
        data="digits",
        transfer=Transfer(head="mlp", schedule="probe", cached=True, pretrained_file="w.safetensors"),
    ),
    TrainSettings(network="runs/one", data="digits", transfer=Transfer(schedule="gradual")),
    TrainSettings(
        network="runs/one", data="digits", transfer=Transfer(head="flat", head_init="means", cut_after="act2")
    ),
]


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda settings: settings.network)
def test_the_command_asks_for_the_same_settings(settings, command_settings):
    """All of them, whatever the verb's defaults are."""
    assert command_settings(command(settings, "new run")) == (settings, Path("new run"))


@pytest.mark.parametrize("option", RunOptions.__annotations__)
@pytest.mark.parametrize("transfer", [None, Transfer()], ids=["train", "tune"])
def test_every_option_is_asked_for(option, transfer, command_settings):
    """With a value that is not the default, of whatever type."""
    settings = changed(RENAMED.get(option, option), transfer)
    line = command(settings, "new")
    assert f"--{option.replace('_', '-')}" in shlex.split(line)
    assert command_settings(line)[0] == settings


def changed(name, transfer):
    """Settings with another value than the default of `name`."""
    kind, usual = get_type_hints(TrainSettings)[name], getattr(TrainSettings, name)
    for value in [*get_args(kind), True, 2, 3, 0.6, "sgd", (3, 20, 30)]:
        if value != usual and suits(value, kind):
            with contextlib.suppress(SettingsError):
                return TrainSettings(network="resnet8", data="digits", transfer=transfer, **{name: value})
    raise LookupError(f"no value is known for {name}")


def suits(value, kind):
    """Whether a value is of a type."""
    if get_origin(kind) is Literal:
        return value in get_args(kind)
    if get_origin(kind) is UnionType:
        return any(suits(value, each) for each in get_args(kind))
    return type(value) is (get_origin(kind) or kind)


def test_defaults_are_left_out():
    """A short command for a plain run."""
    assert command(SETTINGS[0], "again") == "zoonnx train convnet4 --data digits --out again"
    assert command(SETTINGS[2], "again") == "zoonnx tune resnet18 --data digits --out again"


def test_the_run_of_a_fold_is_one_of_several():
    """Which one command trains."""
    settings = TrainSettings(network="convnet4", data="digits", folds=3, fold=2)
    assert command(settings, "again") == "zoonnx train convnet4 --data digits --out again --folds 3"


def test_a_card_names_no_place_of_this_machine(tmp_path):
    """Only the last part of a path."""
    run = tmp_path / "some" / "run"
    run.mkdir(parents=True)
    transfer = Transfer(pretrained_file=str(tmp_path / "w.safetensors"))
    shown = public(TrainSettings(network=str(run), data=f"folder:{tmp_path}/flowers", transfer=transfer))
    assert (shown.network, shown.data) == ("run", "folder:flowers")
    assert shown.transfer == Transfer(pretrained_file="w.safetensors")
    assert str(tmp_path) not in command(shown, "again")


def test_a_run_is_called_as_its_user_called_it(tmp_path):
    """So that a command can be pasted; but by its name alone where the way to it is this machine's."""
    assert shown_run(Path("runs/digits")) == "runs/digits"
    assert (shown_run(tmp_path / "digits"), shown_run(Path("../elsewhere/digits"))) == ("digits", "digits")


@pytest.fixture
def command_settings(monkeypatch):
    """What a command line would train with, and where."""
    import zoonnx
    from zoo.cli import train

    asked = []
    monkeypatch.setattr(train, "_check_places", lambda settings, asked: None)
    monkeypatch.setattr(train, "_train", lambda settings, out, resume: asked.append((settings, out)))

    def run(line):
        with pytest.raises(SystemExit) as ended:
            zoonnx.main(shlex.split(line)[1:])
        assert ended.value.code == 0
        return asked[-1]

    return run
