"""Finds the value that each call of a module returns, in a graph that lists the modules around each operation.

A call is a sequence of operations inside the module. What the rest of the graph reads of it is what the module
returned, if it is one value, and if the readers name it as their argument: then the exporter merged nothing in between.
A module has no entry where this is uncertain: where it returned several tensors, where the exporter's optimiser changed
the end of the module, or where its calls cannot be counted.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from protos.layer_names import layer_name
from serve.repository.module_calls import Call, may_be_several, module_calls, parameters_inside
from serve.repository.operations import Operation, Program, is_layer_of_torch
from serve.repository.program_metadata import numbered
from serve.repository.source_lines import returns_several, uses_part

# Operations that return their input, which torch.onnx leaves out.
COPIES = ("alias", "clone", "contiguous", "detach", "detach_", "dropout", "lift_fresh_copy")


def module_outputs(program: Program) -> Mapping[str, str]:
    """Return the values of the graph that hold modules' outputs, by layer name, in the order in which calls return."""
    finder = _Finder(program, module_calls(program))
    found = list(finder.found())
    found.sort(key=lambda entry: (entry.call.last, -entry.call.path.count("."), -len(entry.call.path)))
    return {entry.name: entry.value for entry in found}


@dataclass(frozen=True)
class _Found:
    call: Call
    name: str
    value: str


class _Finder:
    def __init__(self, program: Program, calls: Mapping[str, Sequence[Call]]) -> None:
        self._program, self._calls = program, calls
        self._readers: defaultdict[str, list[tuple[int, Operation]]] = defaultdict(list)
        self._present = {operation.name for operation in program.operations}
        for position, operation in enumerate(program.operations):
            self._present.update(operation.outputs)
            for value in operation.inputs:
                self._readers[value].append((position, operation))
        self._removed = [(*numbered(name), owner) for name, owner in program.removed]
        self._shared = _shared_modules(program.operations)
        self._tuple_classes = frozenset(self._classes_of_tuples())

    def _classes_of_tuples(self) -> Iterator[str]:
        """Yield the classes of which a module returns several values; others may be reduced to one that is used."""
        for path, calls in self._calls.items():
            for call in calls:
                operation = call.operations[0]
                index = operation.scopes.index(path)
                returned = [value for value, (_, certain) in self._escaping(call).items() if any(certain)]
                if len(returned) > 1 and index < len(operation.classes):
                    yield operation.classes[index]

    def found(self) -> Iterator[_Found]:
        """Yield the outputs of all modules."""
        for path, calls in self._calls.items():
            yield from self._of_module(path, calls)

    def _of_module(self, path: str, calls: Sequence[Call]) -> Iterator[_Found]:
        """Yield the outputs of a module's calls, up to the first call whose number is uncertain."""
        if path in self._shared or not _are_alike(calls):
            return
        for number, call in enumerate(calls):
            if may_be_several(call) or self._may_follow_removed(call):
                return
            if value := self._returned(call):
                yield _Found(call, layer_name(path, number, 0), value)

    def _may_follow_removed(self, call: Call) -> bool:
        """Return whether the optimiser may have removed an earlier call of the module completely."""
        names = [numbered(operation.name) for operation in call.operations if operation.name]
        return bool(names) and all(
            any(
                base == kind and earlier < number and (not owner or f"{owner}.".startswith(f"{call.path}."))
                for base, earlier, owner in self._removed
            )
            for kind, number in names
        )

    def _returned(self, call: Call) -> str:
        """Return the one value that the call returns; empty if that is uncertain."""
        returned = self._escaping(call)
        if len(returned) != 1 or not all(all(certain) for _, certain in returned.values()):
            return ""
        ((value, (operation, _)),) = returned.items()
        is_certain = self._program.has_source or _has_one_output(call)
        return value if is_certain and not self._is_part(call.path, operation, value) else ""

    def _escaping(self, call: Call) -> Mapping[str, tuple[Operation, list[bool]]]:
        """Return the values that leave a call, each with its operation, and with the certainty of each way out."""
        escaping: dict[str, tuple[Operation, list[bool]]] = {}
        for operation in call.operations:
            for value in operation.outputs:
                certain = [self._reads(call, reader, operation, value) for reader in self._outside(call, value)]
                if value in self._program.all_outputs:
                    certain.append(value in self._program.outputs)
                if certain and not operation.is_certain:
                    certain.append(False)
                if certain:
                    escaping[value] = operation, certain
        return escaping

    def _is_part(self, path: str, operation: Operation, value: str) -> bool:
        """Return whether the module that returns `value` at `path`, or one around or inside it, may return more."""
        innermost = operation.scopes.index(path)
        if is_layer_of_torch(operation, innermost):
            return False
        leaves = [
            index
            for index, outer in enumerate(operation.scopes)
            if not any(reader.is_read_inside(outer) for _, reader in self._readers[value])
        ]
        if any(operation.classes[index] in self._tuple_classes for index in leaves if index < len(operation.classes)):
            return True
        return any(
            uses_part(operation.callers[index]) or returns_several(operation.bodies[index])
            for index in leaves
            if index <= innermost and operation.callers
        )

    def _outside(self, call: Call, value: str) -> list[Operation]:
        """Return the operations that read a value outside the call that computes it."""
        return [
            reader
            for position, reader in self._readers[value]
            if position > call.last or (reader.is_known and reader not in call.operations)
        ]

    def _reads(self, call: Call, reader: Operation, operation: Operation, value: str) -> bool:
        """Return whether `reader` certainly read `value`, which `operation` computes, in the program too."""
        if not reader.is_known:
            return len(reader.outputs) > 1 and is_layer_of_torch(operation)
        if reader.merged:
            return not reader.is_read_inside(call.path)  # else the call ends with the layer that was merged
        is_renamed = value in self._program.all_outputs and operation.name in reader.arguments
        copies = (name for name in reader.arguments if name not in self._present and numbered(name)[0] in COPIES)
        return value in reader.arguments or is_renamed or any(copies)


def _has_one_output(call: Call) -> bool:
    """Return whether a module returns one tensor, as layers, Sequential containers and modules in them usually do."""
    inner = [operation.scopes[operation.scopes.index(call.path) + 1 :][:1] for operation in call.operations]
    is_numbered = [bool(path) and path[0].removeprefix(f"{call.path}.").isdigit() for path in inner]
    return not any(inner) or all(is_numbered) or call.path.rpartition(".")[2].isdigit()


def _shared_modules(operations: Sequence[Operation]) -> frozenset[str]:
    """Return the paths of layers that may be one module: one reads only parameters of the other, of the same class."""
    layers = [operation for operation in operations if operation.scopes and is_layer_of_torch(operation)]
    classes = {operation.scopes[-1]: operation.classes[-1] for operation in layers}
    shared: set[str] = set()
    for operation in layers:
        path, owners = operation.scopes[-1], {name.rpartition(".")[0] for name in operation.parameters}
        if len(owners) == 1 and not owners & {path} and classes[path] == classes.get(min(owners), classes[path]):
            shared |= {path, *owners}
    return frozenset(shared)


def _are_alike(calls: Sequence[Call]) -> bool:
    """Return whether the calls read parameters of the same modules; else they may be parts of one call."""
    owners = [
        frozenset(name.rpartition(".")[0] for name in parameters_inside(call.path, call.operations)) for call in calls
    ]
    kinds = [frozenset(operation.kind for operation in call.operations) for call in calls]
    return len(set(owners)) == 1 and (bool(owners[0]) or len(set(kinds)) == 1)
