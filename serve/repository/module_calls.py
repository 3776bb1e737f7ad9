"""Splits the operations of a graph into the calls of modules.

The operations of one call follow each other. Two calls are told apart if an operation outside the module lies between
them, or if the exporter numbered them.
"""

from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from serve.repository.operations import Operation, Program, is_layer_of_torch


@dataclass(frozen=True)
class Call:
    """A call of a module, or several calls with nothing in between.

    Attributes:
        path: The module's path.
        first: The position of its first operation in the program.
        last: The position of its last operation.
        operations: Its operations in order, without those whose modules are unknown.
    """

    path: str
    first: int
    last: int
    operations: Sequence[Operation]


def module_calls(program: Program) -> Mapping[str, Sequence[Call]]:
    """Return the calls of each module in order, by the module's path."""
    known = [(position, operation) for position, operation in enumerate(program.operations) if operation.is_known]
    runs: defaultdict[str, list[list[int]]] = defaultdict(list)  # indices into `known`
    for index, (_, operation) in enumerate(known):
        for path in dict.fromkeys(filter(None, operation.scopes)):
            is_next = runs[path] and runs[path][-1][-1] == index - 1
            if is_next and _may_continue(known[index - 1][1], operation, path):
                runs[path][-1].append(index)
            else:
                runs[path].append([index])
    return {
        path: [_call(path, [known[index] for index in part]) for run in of_path for part in _parts(run, known)]
        for path, of_path in runs.items()
    }


def _call(path: str, operations: Sequence[tuple[int, Operation]]) -> Call:
    return Call(path, operations[0][0], operations[-1][0], [operation for _, operation in operations])


def _parts(run: Sequence[int], known: Sequence[tuple[int, Operation]]) -> list[list[int]]:
    """Split a run of one layer of torch.nn into its calls if each computes one operation of the program."""
    operations = [known[index][1] for index in run]
    is_layer = all(len(operation.scopes) == len(operations[0].scopes) for operation in operations)
    if not is_layer or not is_layer_of_torch(operations[0]) or len({operation.kind for operation in operations}) > 1:
        return [list(run)]
    return [list(part) for _, part in groupby(run, lambda index: known[index][1].name)]


def _may_continue(before: Operation, after: Operation, path: str) -> bool:
    """Return whether two operations that follow each other inside a module may belong to one call of it."""
    if before.scopes[-1] == after.scopes[-1] == path:
        return before.call == after.call
    return True


def may_be_several(call: Call) -> bool:
    """Return whether the operations may be several calls: whether two successive parts of them do the same.

    Parts that read the same parameters may be two calls, even if one of them does more: arguments can change what a
    module does, and the optimiser computes what equal calls have in common once.
    """
    steps = _steps(call.operations)
    parameters = [parameters_inside(call.path, step) for step in steps]
    if any(parameters):
        return _has_similar_parts(parameters)
    if len(call.operations) > 1 and call.operations[0].call == call.operations[-1].call != "":
        return False
    return _is_periodic([_key(call.path, step[0]) for step in steps])


def _steps(operations: Iterable[Operation]) -> list[list[Operation]]:
    """Group the nodes that compute one operation of the program, or one numbered call of a module."""
    steps: dict[Hashable, list[Operation]] = {}
    for operation in operations:
        steps.setdefault(operation.call or operation.name or id(operation), []).append(operation)
    return list(steps.values())


def parameters_inside(path: str, operations: Iterable[Operation]) -> frozenset[str]:
    """Return the parameters of the module at `path`, and of those inside it, that operations read."""
    names = (name for operation in operations for name in operation.parameters | operation.merged_parameters())
    return frozenset(name for name in names if name.startswith(f"{path}."))


def _has_similar_parts(parameters: Sequence[frozenset[str]]) -> bool:
    """Return whether the sequence can be cut so that one part reads parameters, and the other the same ones or more."""
    for cut in range(1, len(parameters)):
        before, after = frozenset[str]().union(*parameters[:cut]), frozenset[str]().union(*parameters[cut:])
        if before and after and (before <= after or after <= before):
            return True
    return False


def _key(path: str, operation: Operation) -> Hashable:
    inner = operation.scopes[operation.scopes.index(path) + 1 :]
    return inner, operation.kind, operation.line


def _is_periodic(keys: Sequence[Hashable]) -> bool:
    """Return whether a sequence is a shorter one, repeated."""
    lengths = (length for length in range(1, len(keys) // 2 + 1) if len(keys) % length == 0)
    return any(all(keys[index] == keys[index - length] for index in range(length, len(keys))) for length in lengths)
