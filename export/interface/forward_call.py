"""Determines how named inputs become the arguments of a network's forward.

The name of an input is that of an argument; `batch.image` is the entry `image` of the dict `batch`, `pair.0` the first
tensor of the tuple `pair`. Tensors are passed by position where the forward accepts that, as callers and hooks expect.
"""

import difflib
import inspect
from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn

from export.errors import SettingsError
from export.tracing.arguments import Arguments

POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
NAMED = (*POSITIONAL, inspect.Parameter.KEYWORD_ONLY)


def forward_call(network: nn.Module, names: Iterable[str]) -> Arguments:
    """Return the arguments of a call of `network`, with the name of an input in place of each tensor.

    Raises: SettingsError, with the arguments of the forward.
    """
    parameters = inspect.signature(network.forward).parameters
    values = {name: _sequences(value) for name, value in _nested(names).items()}
    _require_known(values, parameters)
    _require_complete(values, parameters)
    by_position: list[Any] = []
    for name, parameter in parameters.items():
        if parameter.kind not in POSITIONAL or name not in values:
            break
        by_position.append(values.pop(name))
    return Arguments(tuple(by_position), values)


def require_one_input(network: nn.Module) -> None:
    """Reject a network whose forward cannot be called with one tensor. Raises: SettingsError."""
    parameters = inspect.signature(network.forward).parameters
    required = _required(parameters)
    if len(required) > 1 or any(parameters[name].kind not in POSITIONAL for name in required):
        inputs = " ".join(f"--input {name}=SHAPE" for name in required)
        raise SettingsError(
            f"the network's forward has the arguments {_described(parameters)}, not one image: export it with --raw "
            f"and the shape of each input, {inputs}."
        )


def _nested(names: Iterable[str]) -> dict[str, Any]:
    """Return nested dicts of names; the keys of each are the parts of the paths."""
    tree: dict[str, Any] = {}
    for name in names:
        *parents, last = name.split(".")
        node = tree
        for depth, parent in enumerate(parents, 1):
            node = node.setdefault(parent, {})
            if not isinstance(node, dict):
                raise SettingsError(
                    f"'{'.'.join(parents[:depth])}' is an input, so that '{name}' cannot be part of it."
                )
        if last in node:
            raise SettingsError(f"'{name}' cannot be an input, because another input is part of it.")
        node[last] = name
    return tree


def _sequences(value: Any) -> Any:
    """Replace each dict with the keys 0, 1, 2 and so on by a tuple."""
    if not isinstance(value, dict):
        return value
    children = {key: _sequences(child) for key, child in value.items()}
    indices = [str(index) for index in range(len(children))]
    return tuple(children[index] for index in indices) if children.keys() == set(indices) else children


def _require_known(values: Mapping[str, Any], parameters: Mapping[str, inspect.Parameter]) -> None:
    names = [name for name, parameter in parameters.items() if parameter.kind in NAMED]
    accepts_any = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values())
    for name in values:
        if name not in names and not accepts_any:
            hint = _hint(name, names, parameters)
            raise SettingsError(
                f"the network's forward has no argument '{name}'; it has {_described(parameters)}{hint}"
            )


def _hint(name: str, names: list[str], parameters: Mapping[str, inspect.Parameter]) -> str:
    """Return the end of the sentence about an unknown argument: what to do."""
    if any(parameter.kind is inspect.Parameter.VAR_POSITIONAL for parameter in parameters.values()):
        return ": write a forward that names each of its inputs, and pass them on."
    close = difflib.get_close_matches(name, names, n=1)
    return f": did you mean '{close[0]}'?" if close else "."


def _require_complete(values: Mapping[str, Any], parameters: Mapping[str, inspect.Parameter]) -> None:
    missing = [name for name in _required(parameters) if name not in values]
    if missing:
        raise SettingsError(
            f"the network's forward also needs '{missing[0]}'; it has the arguments {_described(parameters)}: add "
            f"--input {missing[0]}=SHAPE."
        )


def _required(parameters: Mapping[str, inspect.Parameter]) -> list[str]:
    return [
        name
        for name, parameter in parameters.items()
        if parameter.kind in NAMED and parameter.default is inspect.Parameter.empty
    ]


def _described(parameters: Mapping[str, inspect.Parameter]) -> str:
    """Return the names of the arguments; those with a default are optional."""
    required = _required(parameters)
    names = [
        name + ("" if name in required else " (optional)")
        if parameter.kind in NAMED
        else str(parameter.replace(annotation=parameter.empty))
        for name, parameter in parameters.items()
    ]
    return ", ".join(names) or "none"
