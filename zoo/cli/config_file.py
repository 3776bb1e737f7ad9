"""Options of `train` and `tune` from a TOML file or the environment.

Flags override the environment, which overrides the file.
"""

import json
import os
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

from zoo.errors import SettingsError, did_you_mean

PREFIX = "ZOONNX"
FLAGS_ONLY = ("config", "resume", "find_lr")  # options of a single invocation
EXPECTED_VALUES = {int: "a whole number", float: "a number"}  # by the type of the option's default


def read_config(ctx: typer.Context, file: Path | None) -> Path | None:
    """Set the options that were not passed as flags, from the environment (ZOONNX_LR) or from `file` (lr = 0.01).

    Raises:
        SettingsError: A name is not an option of the verb, a value has the wrong type, or the file cannot be read.
    """
    known = [str(option.name) for option in ctx.command.params if option.name not in FLAGS_ONLY]
    variables = (name.removeprefix(f"{PREFIX}_") for name in os.environ if name.startswith(f"{PREFIX}_"))
    _check_known(f"in the environment (prefix {PREFIX}_)", variables, [name.upper() for name in known])
    ctx.auto_envvar_prefix = PREFIX
    if file is not None:
        options = _read_toml(file)
        _check_known(f"in {file}", options, known)
        _check_types(file, options, ctx.command.params)
        ctx.default_map = {name: value if isinstance(value, bool) else str(value) for name, value in options.items()}
    return file


Config = Annotated[
    Path | None,
    typer.Option(
        callback=read_config,
        is_eager=True,
        metavar="F.toml",
        help="File of options, such as batch_size = 64. Environment variables (ZOONNX_BATCH_SIZE) override the file, "
        "flags override both.",
    ),
]


def _read_toml(file: Path) -> dict[str, Any]:
    """Read a file of options, each with a single value."""
    try:
        options = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SettingsError(f"{file} cannot be read as TOML: {error}") from error
    for name, value in options.items():
        if isinstance(value, dict | list):
            raise SettingsError(f"in {file} the option '{name}' must be a single value; got {value}")
    return options


def _check_types(file: Path, options: dict[str, Any], parameters: Iterable[Any]) -> None:
    """Require a boolean for each switch, and no boolean for other options, which typer parses like flags' values."""
    for parameter in parameters:
        value, is_switch = options.get(parameter.name), getattr(parameter, "is_flag", False)
        if value is not None and isinstance(value, bool) != is_switch:
            other = EXPECTED_VALUES.get(type(parameter.default), "a value other than true or false")
            expected = "true or false" if is_switch else other
            raise SettingsError(
                f"in {file} the option '{parameter.name}' must be {expected}; got {json.dumps(value, default=str)}"
            )


def _check_known(where: str, names: Iterable[str], known: list[str]) -> None:
    for name in sorted(names):
        if name not in known:
            raise SettingsError(f"{where}: there is no option '{name}' for this verb{did_you_mean(name, known)}")
