"""Determines the sizes of the dynamic axes for which a captured graph is valid.

If a network's forward branches on a size (`if x.shape[0] > 8:`), torch.onnx captures only the branch of its example.
It records the assumption as a guard, but omits the guard from the file, whose results at other sizes would be wrong
without an error.

Requires: the program that torch.onnx captured, and the names of the input's dynamic axes.
Ensures: the graph is valid for every batch size, and has no maximum height or width. Other assumptions about height and
width, such as a minimum, are returned as guards: a layer may need them, or both branches may have the same result (see
dynamic_shapes_check.py).
"""

import itertools
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from export.convert.branch_locations import at_least, at_most, fixed
from export.errors import ConversionError

BATCH = 0
SMALLEST = 2  # PyTorch specialises 0 and 1; the file is run at a batch of 1
TESTED_SIZES = range(SMALLEST, 257)  # a condition that holds for all of these sizes is ignored

Sizes = Mapping[int, int]  # size by axis of the input
LocateBranch = Callable[[str], str]  # from the expression of an assumption to a clause with the location of its branch


@dataclass(frozen=True)
class SizeAssumption:
    """A condition under which the graph is valid.

    Attributes:
        description: The condition in terms of the names of the axes.
        expression: The condition as PyTorch writes it (see branch_locations.py).
    """

    description: str
    expression: str

    def rejection(self, locate: LocateBranch) -> str:
        """Return the beginning of an error message that rejects the network."""
        forward = f"the network's forward branches on the size of its input{locate(self.expression)}"
        return f"{forward}, and the file would be valid only where {self.description}"


@dataclass(frozen=True)
class Guard(SizeAssumption):
    """An assumption that can be evaluated.

    Attributes:
        holds: Returns whether the assumption is true for the sizes passed to it.
    """

    holds: Callable[[Sizes], bool]


def require_dynamic_axes(program: Any, axis_names: Mapping[int, str], locate: LocateBranch) -> None:
    """Reject an exported `program` that is valid only for some sizes of the dynamic axes `axis_names`.

    The batch, axis 0, must be unconditional; the other axes must have no maximum, but may have a minimum.

    Raises: ConversionError, with the condition.
    """
    assumptions = (
        *_fixed_sizes(program, axis_names),
        *_ranges(program, axis_names),
        *_batch_conditions(program, axis_names[BATCH]),
    )
    for assumption in assumptions:
        remedy = "remove the size-dependent branch"
        if len(axis_names) > 1:
            remedy += ", or drop --dynamic-size"
        names = ", ".join(axis_names.values())
        raise ConversionError(f"{assumption.rejection(locate)}; {names} must be dynamic: {remedy}.")


def size_guards(program: Any, axis_names: Mapping[int, str]) -> list[Guard]:
    """Return the guards on height and width of an exported `program`, if `axis_names` lists these as dynamic."""
    terms = _terms(program, axis_names)
    multiples = {axis: multiple for axis, multiple in terms.values() if multiple > 1}
    batch = {symbol for symbol, (axis, _) in terms.items() if axis == BATCH}
    conditions = {
        str(condition): condition
        for condition in _conditions(program)
        if condition.free_symbols <= terms.keys() and not condition.free_symbols <= batch
    }
    minimums = (_minimum(program, axis, name) for axis, name in axis_names.items() if axis != BATCH)
    guards = [
        *(guard for guard in minimums if guard),
        *(
            Guard(_with_axis_names(expression, terms, axis_names), expression, _test(condition, terms))
            for expression, condition in conditions.items()
        ),
    ]
    return [
        *(_multiple(axis_names[axis], axis, multiple) for axis, multiple in multiples.items()),
        *(_at_multiples(guard, multiples) for guard in guards),
    ]


def _terms(program: Any, axis_names: Mapping[int, str]) -> dict[Any, tuple[int, int]]:
    """Return the axis of each symbol for a dynamic size, and how many times the symbol the size is."""
    terms: dict[Any, tuple[int, int]] = {}
    replacements = _inputs(program)[0].fake_mode.shape_env.replacements
    for axis in axis_names:
        size = _symbol(program, axis)
        terms |= {symbol: (axis, int(size.coeff(symbol))) for symbol in size.free_symbols}
        terms |= {symbol: (axis, 1) for symbol, replacement in replacements.items() if replacement == size}
    return terms


def _multiple(name: str, axis: int, multiple: int) -> Guard:
    return Guard(f"{name} is a multiple of {multiple}", "", lambda sizes: sizes[axis] % multiple == 0)


def _at_multiples(guard: Guard, multiples: Mapping[int, int]) -> Guard:
    """Return `guard` for the multiples only; the guards of `_multiple` cover the other sizes."""
    return replace(
        guard,
        holds=lambda sizes: any(sizes[axis] % multiple for axis, multiple in multiples.items()) or guard.holds(sizes),
    )


def _minimum(program: Any, axis: int, name: str) -> Guard | None:
    symbol = _symbol(program, axis)
    span = program.range_constraints.get(symbol)
    if span is None or span.lower <= 1:
        return None
    minimum = int(span.lower)
    return Guard(at_least(name, minimum), at_least(symbol, minimum), lambda sizes: sizes[axis] >= minimum)


def _conditions(program: Any) -> list[Any]:
    """Return the conditions that PyTorch recorded to be checked at run time."""
    asserts = _inputs(program)[0].fake_mode.shape_env.deferred_runtime_asserts
    return [note.expr for group in asserts.values() for note in group]


def _with_axis_names(expression: str, terms: Mapping[Any, tuple[int, int]], axis_names: Mapping[int, str]) -> str:
    for symbol, (axis, multiple) in terms.items():
        name = axis_names[axis] if multiple == 1 else f"({axis_names[axis]}/{multiple})"
        expression = re.sub(rf"\b{symbol}\b", name, expression)
    return expression


def _test(condition: Any, terms: Mapping[Any, tuple[int, int]]) -> Callable[[Sizes], bool]:
    def holds(sizes: Sizes) -> bool:
        return bool(condition.subs({symbol: sizes[axis] // multiple for symbol, (axis, multiple) in terms.items()}))

    return holds


def _inputs(program: Any) -> list[Any]:
    """Return the captured inputs: the placeholders that are not weights. All of them have the same dynamic sizes."""
    names = program.graph_signature.user_inputs
    return [node.meta["val"] for node in program.graph.nodes if node.op == "placeholder" and node.name in names]


def _fixed_sizes(program: Any, axis_names: Mapping[int, str]) -> Iterator[SizeAssumption]:
    for (axis, name), captured in itertools.product(axis_names.items(), _inputs(program)):
        size = captured.shape[axis]
        if isinstance(size, int):
            hint = " (len() fixes it: use x.shape[0])" if axis == BATCH else ""
            yield SizeAssumption(f"{name} = {size}{hint}", fixed(size))


def _ranges(program: Any, axis_names: Mapping[int, str]) -> Iterator[SizeAssumption]:
    for axis, name in axis_names.items():
        symbol = _symbol(program, axis)
        span = program.range_constraints.get(symbol)
        if span is not None and span.upper.is_Integer:  # otherwise it is infinite
            yield SizeAssumption(at_most(name, span.upper), at_most(symbol, span.upper))
        if span is not None and axis == BATCH and span.lower > SMALLEST:
            yield SizeAssumption(at_least(name, span.lower), at_least(symbol, span.lower))


def _batch_conditions(program: Any, name: str) -> Iterator[SizeAssumption]:
    batch = _symbol(program, BATCH)
    for condition in _conditions(program):
        if condition.free_symbols == {batch} and not all(condition.subs(batch, size) for size in TESTED_SIZES):
            yield SizeAssumption(str(condition).replace(str(batch), name), str(condition))


def _symbol(program: Any, axis: int) -> Any:
    """Return the symbol of a dynamic size; None if the size is fixed."""
    size = _inputs(program)[0].shape[axis]
    return None if isinstance(size, int) else size.node.expr
