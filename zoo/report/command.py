"""The command that repeats a run."""

import shlex
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from zoo.data.registry import redacted_name
from zoo.runs.options import RENAMED, TUNE_DEFAULTS, RunOptions
from zoo.settings import TrainSettings, Transfer


def command(settings: TrainSettings, out: str) -> str:
    """A line for a shell; options that are the verb's defaults are left out."""
    verb, usual = "train", {each.name: each.default for each in fields(TrainSettings)}
    words = _transfer_words(settings.transfer) if settings.transfer else []
    if settings.transfer:
        verb, usual = "tune", usual | TUNE_DEFAULTS
    for option in RunOptions.__annotations__:
        name = RENAMED.get(option, option)
        value = getattr(settings, name)
        if value != usual[name]:
            words += _flag(option, value)
    if settings.folds:  # one command trains all of them
        words += _flag("folds", settings.folds)
    return shlex.join(["zoonnx", verb, settings.network, "--data", settings.data, "--out", out, *words])


def shown_run(run: Path) -> str:
    """The run's folder as it was given, or its name where that would tell of this machine."""
    return run.resolve().name if run.is_absolute() or ".." in run.parts else run.as_posix()


def public(settings: TrainSettings) -> TrainSettings:
    """The same settings without the way to files on this machine."""
    transfer = settings.transfer
    if transfer is not None and transfer.pretrained_file:
        transfer = replace(transfer, pretrained_file=Path(transfer.pretrained_file).name)
    network = Path(settings.network).name if Path(settings.network).is_dir() else settings.network
    return replace(settings, network=network, data=redacted_name(settings.data), transfer=transfer)


def _transfer_words(transfer: Transfer) -> list[str]:
    words = ["--probe"] if transfer.cached else []
    if transfer.head != Transfer.head:
        words += _flag("head", transfer.head)
    if transfer.schedule != ("probe" if transfer.cached else Transfer.schedule):
        words += _flag("schedule", transfer.schedule)
    if transfer.head_init != Transfer.head_init:
        words += _flag("head_init", transfer.head_init)
    for name in ("cut_after", "pretrained_file"):
        words += _flag(name, getattr(transfer, name)) if getattr(transfer, name) else []
    return words


def _flag(name: str, value: Any) -> list[str]:
    """An option in words; one that is true or false by default is false."""
    if value is True:
        return ["--" + name.replace("_", "-")]
    written = ",".join(str(each) for each in value) if isinstance(value, tuple) else str(value)
    return ["--" + name.replace("_", "-"), written]
