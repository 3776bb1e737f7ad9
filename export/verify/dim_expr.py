"""Evaluates dimensions that are expressions of others, such as `3*batch` or `floor(height/2 - 1/2) + 1`.

The text is parsed and never run as code; only arithmetic is evaluated, with exact fractions.
"""

import ast
import math
import operator
from collections.abc import Callable, Mapping
from fractions import Fraction

OPERATORS: Mapping[type[ast.operator], Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: lambda a, b: Fraction(a // b),
    ast.Mod: operator.mod,
}
FUNCTIONS: Mapping[str, Callable[..., Fraction]] = {
    "floor": lambda a: Fraction(math.floor(a)),
    "ceiling": lambda a: Fraction(math.ceil(a)),
    "Max": max,
    "Min": min,
}


def evaluate(text: str, sizes: Mapping[str, int]) -> int | None:
    """Return the value of `text` for the sizes of its names; None if a size is missing or the value is no integer."""
    try:
        value = _value(ast.parse(text, mode="eval").body, sizes)
    except (SyntaxError, KeyError, TypeError, ZeroDivisionError):
        return None
    return int(value) if value.denominator == 1 else None


def _value(node: ast.expr, sizes: Mapping[str, int]) -> Fraction:
    """Evaluate a node. Raises: KeyError or TypeError for unknown names, functions and syntax."""
    match node:
        case ast.Constant(value=int() as number):
            return Fraction(number)
        case ast.Name(id=name):
            return Fraction(sizes[name])
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_value(operand, sizes)
        case ast.BinOp(left=left, op=op, right=right):
            return OPERATORS[type(op)](_value(left, sizes), _value(right, sizes))
        case ast.Call(func=ast.Name(id=name), args=arguments):
            return FUNCTIONS[name](*(_value(argument, sizes) for argument in arguments))
    raise TypeError(f"{ast.dump(node)} is not arithmetic")
