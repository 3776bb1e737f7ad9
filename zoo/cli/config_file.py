"""Where the options of `train` and `tune` come from: a TOML file, over it the environment, over that the flags."""

import json
import os
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

from zoo.errors import SettingsError, did_you_mean

PREFIX = "ZOONNX"
HERE_ONLY = ("config", "resume", "find_lr")  # what is said with each command anew
EXPECTED = {int: "a whole number", float: "a number"}  # by the type of the default


def read_config(ctx: typer.Context, file: Path | None) -> Path | None:
    """Let the options that no flag gives come from the environment (ZOONNX_LR) or from `file` (lr = 0.01).

    Raises:
        SettingsError: a name is no option of the verb, or the file cannot be read.
    """
    known = [str(each.name) for each in ctx.command.params if each.name not in HERE_ONLY]
    variables = (name.removeprefix(f"{PREFIX}_") for name in os.environ if name.startswith(f"{PREFIX}_"))
    _check_known(f"in the environment, behind {PREFIX}_", variables, [name.upper() for name in known])
    ctx.auto_envvar_prefix = PREFIX
    if file is not None:
        values = _values(file)
        _check_known(f"in {file}", values, known)
        _check_kinds(file, values, ctx.command.params)
        ctx.default_map = {name: value if isinstance(value, bool) else str(value) for name, value in values.items()}
    return file


Config = Annotated[
    Path | None,
    typer.Option(
        callback=read_config,
        is_eager=True,
        metavar="F.toml",
        help="Options by name: batch_size = 64. The environment (ZOONNX_BATCH_SIZE) goes before it, flags before both.",
    ),
]


def _values(file: Path) -> dict[str, Any]:
    """A file's options, each one value."""
    try:
        values = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SettingsError(f"{file} cannot be read as TOML: {error}") from error
    for name, value in values.items():
        if isinstance(value, dict | list):
            raise SettingsError(f"in {file} the option '{name}' must be one value; got {value}")
    return values


def _check_kinds(file: Path, values: dict[str, Any], options: Iterable[Any]) -> None:
    """Require true or false of switches, and of nothing else; all other values are then read as if they were typed."""
    for option in options:
        value, switch = values.get(option.name), getattr(option, "is_flag", False)
        if value is not None and isinstance(value, bool) != switch:
            expected = "true or false" if switch else EXPECTED.get(type(option.default), "other than true or false")
            raise SettingsError(
                f"in {file} the option '{option.name}' must be {expected}; got {json.dumps(value, default=str)}"
            )


def _check_known(where: str, names: Iterable[str], known: list[str]) -> None:
    for name in sorted(names):
        if name not in known:
            raise SettingsError(f"{where}: there is no option '{name}' for this verb{did_you_mean(name, known)}")
