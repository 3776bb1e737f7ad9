"""Reads from a line of source code whether a module returns several tensors.

A traceback shows the line on which a statement begins; the rest of a longer statement is missing.
"""

import ast
from functools import cache

ENDINGS = ("", ")", "])", "))", "]", "}", "})", "}))", ")))")  # candidates for what is missing


def uses_part(caller: str) -> bool:
    """Return whether the line that calls a module unpacks or indexes what a call returns."""
    statement = _parse(caller)
    if statement is None:
        return False
    if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Tuple | ast.List):
        return _is_call_of_name(statement.value)
    return any(isinstance(node, ast.Subscript) and isinstance(node.value, ast.Call) for node in ast.walk(statement))


def returns_several(line: str) -> bool:
    """Return whether the line returns a tuple, a list or a dictionary."""
    statement = _parse(line)
    return isinstance(statement, ast.Return) and isinstance(statement.value, ast.Tuple | ast.List | ast.Dict)


def _is_call_of_name(value: ast.expr) -> bool:
    """Return whether a value is a call, and not that of a method of what another call returned."""
    return isinstance(value, ast.Call) and not any(isinstance(node, ast.Call) for node in ast.walk(value.func))


@cache
def _parse(line: str) -> ast.stmt | None:
    """Return the statement that a line contains, or begins with."""
    for ending in ENDINGS:
        try:
            return ast.parse(line.strip() + ending).body[0]
        except (SyntaxError, ValueError, IndexError, MemoryError, RecursionError):
            continue
    return None
