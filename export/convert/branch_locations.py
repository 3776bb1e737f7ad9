"""Where a network's forward decides by a size of its input: in which module, at which line.

Asked only after a refusal: the network is captured once more, this time watched.
"""

import contextlib
import traceback
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import torch
from torch import nn
from torch.fx.experimental import symbolic_shapes

from export.convert.diagnosis import last_own, place
from export.tracing.trace import inside


def places(network: nn.Module, example: torch.Tensor, dynamic_shapes: Any) -> dict[str, str]:
    """Say of each thing that the capture takes for granted, as `granted` writes it, where it first did."""
    found: dict[str, str] = {}
    with inside(network) as where, _watched(lambda env: _note(found, env, where())), contextlib.suppress(Exception):
        torch.export.export(
            network,
            (example,),
            dynamic_shapes=dynamic_shapes,
            strict=False,
            prefer_deferred_runtime_asserts_over_guards=True,
        )
    return found


def granted(env: symbolic_shapes.ShapeEnv) -> Iterator[str]:
    """What is taken for granted: conditions, the ranges of sizes, and sizes that are fixed."""
    for note in (note.expr for notes in env.deferred_runtime_asserts.values() for note in notes):
        yield str(note)
        if note.is_Equality and len(note.free_symbols) == 1:
            yield from (fixed(env.backed_var_to_val[symbol]) for symbol in note.free_symbols)
    for symbol, span in env.var_to_range.items():
        yield from (at_least(symbol, span.lower), at_most(symbol, span.upper))
        if span.lower == span.upper:
            yield fixed(span.lower)


def at_least(symbol: Any, bound: Any) -> str:
    """How `granted` writes a least size."""
    return f"{symbol} >= {bound}"


def at_most(symbol: Any, bound: Any) -> str:
    """How `granted` writes a largest size."""
    return f"{symbol} <= {bound}"


def fixed(size: Any) -> str:
    """How `granted` writes that a size is what the example has; the sizes of an example differ from each other."""
    return f"= {size}"


def _note(found: dict[str, str], env: symbolic_shapes.ShapeEnv, path: str) -> None:
    new = [each for each in granted(env) if each not in found]
    if new:
        found.update(dict.fromkeys(new, place(path, _line())))


def _line() -> str:
    """The line of the network's own code that is running."""
    stack = traceback.extract_stack()
    start = max(index for index, frame in enumerate(stack) if (frame.filename, frame.name) == (__file__, "places"))
    inner = [frame for frame in stack[start:] if frame.filename not in (__file__, contextlib.__file__)]
    return last_own([(frame.filename, str(frame.lineno), frame.line or "") for frame in inner])


@contextlib.contextmanager
def _watched(hear: Callable[[symbolic_shapes.ShapeEnv], None]) -> Iterator[None]:
    """Call `hear` behind each question that PyTorch asks about sizes."""
    ask = symbolic_shapes.ShapeEnv.evaluate_expr

    def asked(env: symbolic_shapes.ShapeEnv, *args: Any, **kwargs: Any) -> Any:
        try:
            return ask(env, *args, **kwargs)
        finally:
            hear(env)

    with mock.patch.object(symbolic_shapes.ShapeEnv, "evaluate_expr", asked):
        yield
