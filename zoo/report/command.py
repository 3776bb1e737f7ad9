"""The command that repeats a run."""

import shlex
from dataclasses import asdict, replace
from inspect import signature
from pathlib import Path
from typing import Any

from zoo.data import public_name
from zoo.settings import TrainSettings, Transfer

NOT_OPTIONS = ("net", "data", "transfer", "fold")  # all folds are trained by one command
OPTION_NAMES = {"max_shift_px": "max_shift"}


def command(settings: TrainSettings, out: str) -> str:
    """A line for a shell; options that are the verb's defaults are left out."""
    from zoo import cli_train

    verb = cli_train.train if settings.transfer is None else cli_train.tune
    usual = {name: each.default for name, each in signature(verb).parameters.items()}
    words = ["zoonnx", verb.__name__, settings.net, "--data", settings.data, "--out", out]
    for name, value in _options(settings).items():
        if value != usual[name]:
            words += _flag(name, value)
    return shlex.join(words)


def public(settings: TrainSettings) -> TrainSettings:
    """The same settings without the way to files on this machine."""
    transfer = settings.transfer
    if transfer is not None and transfer.pretrained_file:
        transfer = replace(transfer, pretrained_file=Path(transfer.pretrained_file).name)
    net = Path(settings.net).name if Path(settings.net).is_dir() else settings.net
    return replace(settings, net=net, data=public_name(settings.data), transfer=transfer)


def _options(settings: TrainSettings) -> dict[str, Any]:
    values = {name: value for name, value in asdict(settings).items() if name not in NOT_OPTIONS}
    options = {OPTION_NAMES.get(name, name): value for name, value in values.items()}
    return options if settings.transfer is None else options | _transfer_options(settings.transfer)


def _transfer_options(transfer: Transfer) -> dict[str, Any]:
    follows = "probe" if transfer.cached else Transfer.schedule
    return {
        "head": transfer.head,
        "schedule": None if transfer.schedule == follows else transfer.schedule,
        "probe": transfer.cached,
        "pretrained_file": transfer.pretrained_file,
    }


def _flag(name: str, value: Any) -> list[str]:
    flag = "--" + name.replace("_", "-")
    if value is True:
        return [flag]
    return [flag, ",".join(str(each) for each in value) if isinstance(value, tuple) else str(value)]
