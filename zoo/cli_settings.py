"""Where the options of `train` and `tune` come from: a TOML file, over it the environment, over that the flags."""

import os
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

from zoo.errors import SettingsError, did_you_mean

PREFIX = "ZOONNX"
HERE_ONLY = ("config", "resume", "find_lr")  # what is said with each command anew


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
        ctx.default_map = values
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
    """A file's options as text, as if they had been typed; so that each is checked in the same way."""
    try:
        values = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SettingsError(f"{file} cannot be read as TOML: {error}") from error
    for name, value in values.items():
        if isinstance(value, dict | list):
            raise SettingsError(f"in {file} the option '{name}' must be one value; got {value}")
    return {name: value if isinstance(value, bool) else str(value) for name, value in values.items()}


def _check_known(where: str, names: Iterable[str], known: list[str]) -> None:
    for name in sorted(names):
        if name not in known:
            raise SettingsError(f"{where}: there is no option '{name}' for this verb{did_you_mean(name, known)}")
