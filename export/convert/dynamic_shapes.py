"""Whether a graph holds for every size that its file leaves free.

Where a network's forward asks for a size (`if x.shape[0] > 8:`), torch.onnx follows the answer that its example gives,
notes what that took for granted, and forgets the note in the file: the file would be wrong at other sizes, silently.

Requires: what torch.onnx captured, and the names of the input's free axes.
Ensures: nothing was taken for granted about the batch, nor a largest height or width. What else was taken for granted
about those, such as a least one, is told: a layer may need it, or a network go another way below (see otherwise.py).
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from export.convert.branch_locations import at_least, at_most, fixed
from export.errors import ConversionError

BATCH = 0
SMALLEST = 2  # PyTorch takes 0 and 1 for special; at a batch of 1 the file is run
LOOKED_AT = range(SMALLEST, 257)  # a condition that holds for these decides nothing

Sizes = Mapping[int, int]  # of the axes of an input
Where = Callable[[str], str]  # the clause that says where a thing was first taken for granted, by how it is noted


@dataclass(frozen=True)
class SizeAssumption:
    """What a graph takes for granted: in words, and as PyTorch notes it (see decisions.py)."""

    words: str
    noted: str

    def refusal(self, where: Where) -> str:
        """The beginning of a sentence that refuses the network."""
        forward = f"the network's forward decides by the size of its input{where(self.noted)}"
        return f"{forward}, and the file would hold only where {self.words}"


@dataclass(frozen=True)
class Condition(SizeAssumption):
    """What a graph takes for granted, and whether that holds for some sizes."""

    holds: Callable[[Sizes], bool]


def require_free(program: Any, names: Mapping[int, str], where: Where) -> None:
    """Refuse an exported `program` that holds for some sizes alone; `names` are those of the input's free axes.

    The batch, axis 0, must be free of any condition, the others of a largest size: a layer needs its least.
    Raises: ConversionError, with the condition.
    """
    for granted in (*_fixed(program, names), *_ranges(program, names), *_decisions(program, names[BATCH])):
        free, way_out = ", ".join(names.values()), "let one way do for every size"
        if len(names) > 1:
            way_out += ", or export it for one size, without --dynamic-size"
        raise ConversionError(f"{granted.refusal(where)}; {free} must be free: {way_out}.")


def conditions(program: Any, names: Mapping[int, str]) -> list[Condition]:
    """What an exported `program` takes for granted of the height and the width, where `names` has these as free."""
    symbols = {axis: _symbol(program, axis) for axis in names}
    known = set(symbols.values())
    notes = {str(note): note for note in _notes(program) if {symbols[BATCH]} != note.free_symbols <= known}
    leasts = (_least(program, axis, name) for axis, name in names.items() if axis != BATCH)
    found = [Condition(_named(words, symbols, names), words, _test(note, symbols)) for words, note in notes.items()]
    return [*(each for each in leasts if each), *found]


def _least(program: Any, axis: int, name: str) -> Condition | None:
    symbol = _symbol(program, axis)
    found = program.range_constraints.get(symbol)
    if found is None or found.lower <= 1:
        return None
    least = int(found.lower)
    return Condition(at_least(name, least), at_least(symbol, least), lambda sizes: sizes[axis] >= least)


def _notes(program: Any) -> list[Any]:
    """The conditions that PyTorch noted, and did not check."""
    return [
        note.expr for group in _input(program).fake_mode.shape_env.deferred_runtime_asserts.values() for note in group
    ]


def _named(words: str, symbols: Mapping[int, Any], names: Mapping[int, str]) -> str:
    for axis, name in names.items():
        words = words.replace(str(symbols[axis]), name)
    return words


def _test(note: Any, symbols: Mapping[int, Any]) -> Callable[[Sizes], bool]:
    return lambda sizes: bool(note.subs({symbols[axis]: size for axis, size in sizes.items() if axis in symbols}))


def _input(program: Any) -> Any:
    """The input as it was captured: the last placeholder, behind the weights."""
    return [node.meta["val"] for node in program.graph.nodes if node.op == "placeholder"][-1]


def _fixed(program: Any, names: Mapping[int, str]) -> Iterator[SizeAssumption]:
    for axis, name in names.items():
        size = _input(program).shape[axis]
        if isinstance(size, int):
            hint = " (a len() fixes it: take x.shape[0])" if axis == BATCH else ""
            yield SizeAssumption(f"{name} = {size}{hint}", fixed(size))


def _ranges(program: Any, names: Mapping[int, str]) -> Iterator[SizeAssumption]:
    for axis, name in names.items():
        symbol = _symbol(program, axis)
        found = program.range_constraints.get(symbol)
        if found is not None and found.upper.is_Integer:  # else it is infinite
            yield SizeAssumption(at_most(name, found.upper), at_most(symbol, found.upper))
        if found is not None and axis == BATCH and found.lower > SMALLEST:
            yield SizeAssumption(at_least(name, found.lower), at_least(symbol, found.lower))


def _decisions(program: Any, name: str) -> Iterator[SizeAssumption]:
    batch = _symbol(program, BATCH)
    for note in _notes(program):
        if note.free_symbols == {batch} and not all(note.subs(batch, size) for size in LOOKED_AT):
            yield SizeAssumption(str(note).replace(str(batch), name), str(note))


def _symbol(program: Any, axis: int) -> Any:
    """What stands for a free size; None where the size is fixed."""
    size = _input(program).shape[axis]
    return None if isinstance(size, int) else size.node.expr
