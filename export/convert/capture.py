"""The captures that torch.export makes of a network: by its arguments, with dynamic axes that all of them share."""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

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
        if not dynamic.kwargs:
            return dynamic.args
        names = inspect.signature(self.network.forward).parameters
        return {**dict(zip(names, dynamic.args, strict=False)), **dynamic.kwargs}

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
