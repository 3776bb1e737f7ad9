"""The command line that repeats a run."""

import shlex
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from zoo.data.registry import redacted_name
from zoo.runs.options import RENAMED, TUNE_DEFAULTS, RunOptions
from zoo.settings import TrainSettings, Transfer


def command(settings: TrainSettings, out: str) -> str:
    """Return a shell command; options with the verb's default value are omitted."""
    verb, defaults = "train", {field.name: field.default for field in fields(TrainSettings)}
    arguments = _transfer_arguments(settings.transfer) if settings.transfer else []
    if settings.transfer:
        verb, defaults = "tune", defaults | TUNE_DEFAULTS
    for option in RunOptions.__annotations__:
        name = RENAMED.get(option, option)
        value = getattr(settings, name)
        if value != defaults[name]:
            arguments += _option(option, value)
    if settings.folds:  # one command trains the runs of all folds
        arguments += _option("folds", settings.folds)
    return shlex.join(["zoonnx", verb, settings.network, "--data", settings.data, "--out", out, *arguments])


def shareable_path(run: Path) -> str:
    """Return the run's folder as the user wrote it, or its name alone if it is absolute or contains `..`."""
    return run.resolve().name if run.is_absolute() or ".." in run.parts else run.as_posix()


def without_local_paths(settings: TrainSettings) -> TrainSettings:
    """Return the settings with each path on this machine shortened to its last part."""
    transfer = settings.transfer
    if transfer is not None and transfer.pretrained_file:
        transfer = replace(transfer, pretrained_file=Path(transfer.pretrained_file).name)
    network = Path(settings.network).name if Path(settings.network).is_dir() else settings.network
    return replace(settings, network=network, data=redacted_name(settings.data), transfer=transfer)


def _transfer_arguments(transfer: Transfer) -> list[str]:
    arguments = ["--probe"] if transfer.cached else []
    if transfer.head != Transfer.head:
        arguments += _option("head", transfer.head)
    if transfer.schedule != ("probe" if transfer.cached else Transfer.schedule):
        arguments += _option("schedule", transfer.schedule)
    if transfer.head_init != Transfer.head_init:
        arguments += _option("head_init", transfer.head_init)
    for name in ("cut_after", "pretrained_file"):
        arguments += _option(name, getattr(transfer, name)) if getattr(transfer, name) else []
    return arguments


def _option(name: str, value: Any) -> list[str]:
    """Return an option and its value; every boolean option defaults to false, so true is the flag alone."""
    flag = "--" + name.replace("_", "-")
    if value is True:
        return [flag]
    return [flag, ",".join(map(str, value)) if isinstance(value, tuple) else str(value)]
