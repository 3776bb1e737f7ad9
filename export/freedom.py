"""Whether a graph holds for every size that its file leaves free.

Where a net's forward asks for a size (`if x.shape[0] > 8:`), torch.onnx follows the answer that its example gives,
notes what that took for granted, and forgets the note in the file: the file would be wrong at other sizes, silently.

Requires: what torch.onnx captured, and the names of the input's free axes.
Ensures: nothing was taken for granted about the batch, nor a largest height or width. What else was taken for granted
about those, such as a least one, is told: a layer may need it, or a net go another way below (see otherwise.py).
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from export.errors import ConversionError

BATCH = 0
SMALLEST = 2  # PyTorch takes 0 and 1 for special; at a batch of 1 the file is run
LOOKED_AT = range(SMALLEST, 257)  # a condition that holds for these decides nothing

Sizes = Mapping[int, int]  # of the axes of an input


@dataclass(frozen=True)
class Condition:
    """What a graph takes for granted, and whether that holds for some sizes."""

    words: str
    holds: Callable[[Sizes], bool]


def require_free(program: Any, names: Mapping[int, str]) -> None:
    """Refuse an exported `program` that holds for some sizes alone; `names` are those of the input's free axes.

    The batch, axis 0, must be free of any condition, the others of a largest size: a layer needs its least.
    Raises: ConversionError, with the condition.
    """
    for condition in (*_fixed(program, names), *_ranges(program, names), *_decisions(program, names[BATCH])):
        raise ConversionError(
            f"the net's forward decides by the size of its input, and the file would hold only where {condition}; "
            f"{' and '.join(names.values())} must be free: let one way do for every size."
        )


def conditions(program: Any, names: Mapping[int, str]) -> list[Condition]:
    """What an exported `program` takes for granted of the height and the width, where `names` has these as free."""
    symbols = {axis: _symbol(program, axis) for axis in names}
    known = set(symbols.values())
    notes = {str(note): note for note in _notes(program) if {symbols[BATCH]} != note.free_symbols <= known}
    leasts = (_least(program, axis, name) for axis, name in names.items() if axis != BATCH)
    found = [Condition(_named(note, symbols, names), _test(note, symbols)) for note in notes.values()]
    return [*(each for each in leasts if each), *found]


def _least(program: Any, axis: int, name: str) -> Condition | None:
    found = program.range_constraints.get(_symbol(program, axis))
    if found is None or found.lower <= 1:
        return None
    least = int(found.lower)
    return Condition(f"{name} >= {least}", lambda sizes: sizes[axis] >= least)


def _notes(program: Any) -> list[Any]:
    """The conditions that PyTorch noted, and did not check."""
    return [
        note.expr for group in _input(program).fake_mode.shape_env.deferred_runtime_asserts.values() for note in group
    ]


def _named(note: Any, symbols: Mapping[int, Any], names: Mapping[int, str]) -> str:
    words = str(note)
    for axis, name in names.items():
        words = words.replace(str(symbols[axis]), name)
    return words


def _test(note: Any, symbols: Mapping[int, Any]) -> Callable[[Sizes], bool]:
    return lambda sizes: bool(note.subs({symbols[axis]: size for axis, size in sizes.items() if axis in symbols}))


def _input(program: Any) -> Any:
    """The input as it was captured: the last placeholder, behind the weights."""
    return [node.meta["val"] for node in program.graph.nodes if node.op == "placeholder"][-1]


def _fixed(program: Any, names: Mapping[int, str]) -> Iterator[str]:
    size = _input(program).shape[BATCH]
    if isinstance(size, int):
        yield f"{names[BATCH]} = {size} (a len() fixes it: take x.shape[0])"


def _ranges(program: Any, names: Mapping[int, str]) -> Iterator[str]:
    for axis, name in names.items():
        found = program.range_constraints.get(_symbol(program, axis))
        if found is not None and found.upper.is_Integer:  # else it is infinite
            yield f"{name} <= {found.upper}"
        if found is not None and axis == BATCH and found.lower > SMALLEST:
            yield f"{name} >= {found.lower}"


def _decisions(program: Any, name: str) -> Iterator[str]:
    batch = _symbol(program, BATCH)
    for note in _notes(program):
        if note.free_symbols == {batch} and not all(note.subs(batch, size) for size in LOOKED_AT):
            yield str(note).replace(str(batch), name)


def _symbol(program: Any, axis: int) -> Any:
    """What stands for a free size; None where the size is fixed."""
    size = _input(program).shape[axis]
    return None if isinstance(size, int) else size.node.expr
