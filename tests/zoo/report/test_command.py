"""The command that repeats a run."""

import contextlib
import shlex
from pathlib import Path
from types import UnionType
from typing import Literal, get_args, get_origin, get_type_hints

import pytest

from zoo.errors import SettingsError
from zoo.report.command import command, shareable_path, without_local_paths
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
def test_command_has_the_same_settings(settings, command_settings):
    """Running the command gives the same settings, whatever the verb's defaults are."""
    assert command_settings(command(settings, "new run")) == (settings, Path("new run"))


@pytest.mark.parametrize("option", RunOptions.__annotations__)
@pytest.mark.parametrize("transfer", [None, Transfer()], ids=["train", "tune"])
def test_every_option_is_in_the_command(option, transfer, command_settings):
    """Every option with a value that is not the default is in the command, whatever its type."""
    settings = settings_with_changed(RENAMED.get(option, option), transfer)
    line = command(settings, "new")
    assert f"--{option.replace('_', '-')}" in shlex.split(line)
    assert command_settings(line)[0] == settings


def settings_with_changed(name, transfer):
    """Return settings in which field `name` does not have its default value."""
    kind, default = get_type_hints(TrainSettings)[name], getattr(TrainSettings, name)
    for value in [*get_args(kind), True, 2, 3, 0.6, "sgd", (3, 20, 30)]:
        if value != default and is_of_type(value, kind):
            with contextlib.suppress(SettingsError):
                return TrainSettings(network="resnet8", data="digits", transfer=transfer, **{name: value})
    raise LookupError(f"no candidate value suits {name}")


def is_of_type(value, kind):
    """Return whether a value is of a type."""
    if get_origin(kind) is Literal:
        return value in get_args(kind)
    if get_origin(kind) is UnionType:
        return any(is_of_type(value, member) for member in get_args(kind))
    return type(value) is (get_origin(kind) or kind)


def test_defaults_are_omitted():
    """Options with their default value are not in the command."""
    assert command(SETTINGS[0], "again") == "zoonnx train convnet4 --data digits --out again"
    assert command(SETTINGS[2], "again") == "zoonnx tune resnet18 --data digits --out again"


def test_command_of_a_fold_trains_all_folds():
    """The command of one fold's run is the one that trains all folds."""
    settings = TrainSettings(network="convnet4", data="digits", folds=3, fold=2)
    assert command(settings, "again") == "zoonnx train convnet4 --data digits --out again --folds 3"


def test_local_paths_are_shortened(tmp_path):
    """Only the last part of a path on this machine remains."""
    run = tmp_path / "some" / "run"
    run.mkdir(parents=True)
    transfer = Transfer(pretrained_file=str(tmp_path / "w.safetensors"))
    settings = TrainSettings(network=str(run), data=f"folder:{tmp_path}/flowers", transfer=transfer)
    shortened = without_local_paths(settings)
    assert (shortened.network, shortened.data) == ("run", "folder:flowers")
    assert shortened.transfer == Transfer(pretrained_file="w.safetensors")
    assert str(tmp_path) not in command(shortened, "again")


def test_shareable_path(tmp_path):
    """A relative path is kept, so that a command can be pasted; otherwise only the folder's name remains."""
    assert shareable_path(Path("runs/digits")) == "runs/digits"
    assert (shareable_path(tmp_path / "digits"), shareable_path(Path("../elsewhere/digits"))) == ("digits", "digits")


@pytest.fixture
def command_settings(monkeypatch):
    """Return a function that runs a command line without training; it returns the settings and the run's folder."""
    import zoonnx
    from zoo.cli import train

    calls = []
    monkeypatch.setattr(train, "_check_paths", lambda *_: None)
    monkeypatch.setattr(train, "_train", lambda settings, out, resume: calls.append((settings, out)))

    def run(line):
        with pytest.raises(SystemExit) as exited:
            zoonnx.main(shlex.split(line)[1:])
        assert exited.value.code == 0
        return calls[-1]

    return run
