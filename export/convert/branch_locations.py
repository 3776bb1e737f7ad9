"""Locates where a network's forward branches on a size of its input: the module and the source line.

Only used after a rejection: the network is captured once more while PyTorch's shape environment is observed.
"""

import contextlib
import traceback
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

from torch.fx.experimental import symbolic_shapes

from export.convert.capture import Axes, Capture
from export.tracing.source_lines import last_user_line, location
from export.tracing.trace import module_tracker


def branch_locations(capture: Capture, axes: Axes) -> dict[str, str]:
    """Return where each assumption of the capture, written as in `assumptions`, was first made."""
    locations: dict[str, str] = {}
    with (
        module_tracker(capture.network) as current_path,
        _observe_evaluations(lambda env: _record(locations, env, current_path())),
        contextlib.suppress(Exception),
    ):
        capture.export(axes, prefer_deferred_runtime_asserts_over_guards=True)
    return locations


def assumptions(env: symbolic_shapes.ShapeEnv) -> Iterator[str]:
    """Yield the assumptions of a capture: conditions, ranges of sizes, and fixed sizes."""
    for condition in (note.expr for notes in env.deferred_runtime_asserts.values() for note in notes):
        yield str(condition)
        if condition.is_Equality and len(condition.free_symbols) == 1:
            yield from (fixed(env.backed_var_to_val[symbol]) for symbol in condition.free_symbols)
    for symbol, span in env.var_to_range.items():
        yield from (at_least(symbol, span.lower), at_most(symbol, span.upper))
        if span.lower == span.upper:
            yield fixed(span.lower)


def at_least(symbol: Any, bound: Any) -> str:
    """Return the assumption of a minimum size."""
    return f"{symbol} >= {bound}"


def at_most(symbol: Any, bound: Any) -> str:
    """Return the assumption of a maximum size."""
    return f"{symbol} <= {bound}"


def fixed(size: Any) -> str:
    """Return the assumption that a size equals that of the example, in which all sizes are different."""
    return f"= {size}"


def _record(locations: dict[str, str], env: symbolic_shapes.ShapeEnv, path: str) -> None:
    new = [assumption for assumption in assumptions(env) if assumption not in locations]
    if new:
        locations.update(dict.fromkeys(new, location(path, _current_line())))


def _current_line() -> str:
    """Return the line of the network's own code that is running."""
    stack = traceback.extract_stack()
    here = (__file__, branch_locations.__name__)
    start = max(index for index, frame in enumerate(stack) if (frame.filename, frame.name) == here)
    inner = [frame for frame in stack[start:] if frame.filename not in (__file__, contextlib.__file__)]
    return last_user_line([(frame.filename, str(frame.lineno), frame.line or "") for frame in inner])


@contextlib.contextmanager
def _observe_evaluations(callback: Callable[[symbolic_shapes.ShapeEnv], None]) -> Iterator[None]:
    """Call `callback` after each evaluation of a condition on sizes by PyTorch."""
    evaluate = symbolic_shapes.ShapeEnv.evaluate_expr

    def observed(env: symbolic_shapes.ShapeEnv, *args: Any, **kwargs: Any) -> Any:
        try:
            return evaluate(env, *args, **kwargs)
        finally:
            callback(env)

    with mock.patch.object(symbolic_shapes.ShapeEnv, "evaluate_expr", observed):
        yield
