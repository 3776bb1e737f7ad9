"""The captures that torch.export makes of a network: by its arguments, with dynamic axes that all of them share."""

import contextlib
import inspect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
from torch import nn

from export.tracing.arguments import Arguments

Axes = Mapping[int, Any]  # a torch.export.Dim by axis


@dataclass(frozen=True, eq=False)
class Capture:
    """A network and the arguments with which it is captured.

    Attributes:
        network: A prepared network.
        arguments: Example arguments.
    """

    network: nn.Module
    arguments: Arguments

    def dynamic_shapes(self, axes: Axes) -> Any:
        """Return `axes` for each tensor, in the structure that torch.export expects."""
        dynamic = self.arguments.map(lambda _: axes)
        parameters = inspect.signature(self.network.forward).parameters
        variadic = [name for name, found in parameters.items() if found.kind is inspect.Parameter.VAR_POSITIONAL]
        if not dynamic.kwargs and not variadic:
            return dynamic.args
        return {**_by_name(list(parameters), dynamic.args, variadic), **dynamic.kwargs}

    def export(self, axes: Axes, **options: Any) -> torch.export.ExportedProgram:
        """Return what torch.export captures; it raises exceptions of any type."""
        return torch.export.export(
            self.network,
            self.arguments.args,
            dict(self.arguments.kwargs),
            dynamic_shapes=self.dynamic_shapes(axes),
            strict=False,
            **options,
        )

    @contextlib.contextmanager
    def named_arguments(self) -> Iterator[None]:
        """Replace **kwargs of the network's forward by keyword arguments with names, inside the block.

        torch.export writes a check that the sizes of two entries of **kwargs are equal, and then fails to run it.
        """
        parameters = inspect.signature(self.network.forward).parameters.values()
        if not any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters):
            yield
            return
        forward = _with_names(self.network.forward, self.arguments.kwargs)
        with mock.patch.object(self.network, "forward", forward):
            yield


def _by_name(names: Sequence[str], args: tuple[Any, ...], variadic: Sequence[str]) -> dict[str, Any]:
    """Return positional arguments by name; those that *args collects are one tuple."""
    before = names[: names.index(variadic[0])] if variadic else names
    collected = {variadic[0]: args[len(before) :]} if variadic and len(args) > len(before) else {}
    return {**dict(zip(before, args, strict=False)), **collected}


def _with_names(forward: Any, names: Iterable[str]) -> Any:
    """Return `forward` with a keyword argument for each of `names` that it does not name itself."""

    def named(*args: Any, **kwargs: Any) -> Any:
        return forward(*args, **kwargs)

    signature = inspect.signature(forward)
    own = [
        parameter for parameter in signature.parameters.values() if parameter.kind is not inspect.Parameter.VAR_KEYWORD
    ]
    taken = {parameter.name for parameter in own}
    added = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY) for name in names if name not in taken]
    named.__signature__ = signature.replace(parameters=[*own, *added])  # type: ignore[attr-defined]  # a plain attribute
    return named
