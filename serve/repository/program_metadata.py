"""Reads what torch.onnx records on each node: the modules that contain it, and the operation of the PyTorch program.

An operation names its arguments. Where a node reads a value that is not among them, the exporter's optimiser has merged
operations.
"""

import ast
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING

from protos.keys import CLASSES_KEY, NAME_SCOPES_KEY, PROGRAM_NODE_KEY, RULES_KEY, SIGNATURE_KEY, STACK_TRACE_KEY
from serve.repository.operations import Operation, Program, computing_nodes

if TYPE_CHECKING:
    import onnx

NUMBERED = re.compile(r"(.*?)(?:_(\d+))?")
NAME = re.compile(r"%([\w.]+)")
TARGET = re.compile(r"\[target=([^\]]+)\]")
PARAMETER = re.compile(r"^(\w+): (?:PARAMETER|BUFFER|CONSTANT_TENSOR) target='([^']+)'", re.MULTILINE)
USER_OUTPUT = re.compile(r"^(\w+): USER_OUTPUT", re.MULTILINE)
MERGED_NORM = re.compile(r"(RemoveOptionalBias\w*, )*FuseBatchNormInto\w+(, RemoveOptionalBias\w*)*")
FRAME = re.compile(r'File "(.*)", line (\d+), in (\w+)\n\s*(.*)')
ARITHMETIC = ("add", "mul", "sub", "floordiv", "mod", "neg")  # also computes with sizes, which leaves gaps
Frame = tuple[str, str, str, str]  # file, line number, function, line
NO_MODULE = "_empty_nn_module_stack_from_metadata_hook"  # the path of what torch.export inserted outside all modules


def read_program(graph: "onnx.GraphProto") -> Program | None:
    """Return the program that the metadata of the nodes describes; None if no node has a module's path."""
    signature = next((entry.value for entry in graph.metadata_props if entry.key == SIGNATURE_KEY), "")
    targets = dict(PARAMETER.findall(signature))
    constants = {tensor.name for tensor in graph.initializer}
    computing, constant = computing_nodes(graph)
    operations = [_operation(node, targets, constants) for node in computing]
    if not any(operation.scopes for operation in operations):
        return None
    names = frozenset(USER_OUTPUT.findall(signature))
    outputs = {info.name for info in graph.output}
    certain = {value for value in outputs if not names or value in names}
    for operation in operations:  # an output may have been renamed
        if operation.name in names:
            certain.update(outputs.intersection(operation.outputs))
    removed = _removed(operations, [_operation(node, targets, constants) for node in constant], targets)
    countable = frozenset((name, owner) for name, owner in removed if numbered(name)[0] not in ARITHMETIC)
    return Program(operations, frozenset(outputs), frozenset(certain), countable)


def _operation(node: "onnx.NodeProto", targets: Mapping[str, str], constants: set[str]) -> Operation:
    metadata = {entry.key: entry.value for entry in node.metadata_props}
    text = metadata.get(PROGRAM_NODE_KEY, "")
    name, *arguments = NAME.findall(text) or [""]
    scopes, classes = _strings(metadata.get(NAME_SCOPES_KEY, "")), _strings(metadata.get(CLASSES_KEY, ""))
    modules = [pair for pair in _pairs(scopes, classes) if pair[0] and pair[0] != NO_MODULE]
    frames = FRAME.findall(metadata.get(STACK_TRACE_KEY, ""))
    forwards = _forward_frames(frames, len(modules))
    target = TARGET.search(text)
    operation = Operation(
        name=name,
        kind=target[1] if target else node.op_type,
        scopes=tuple(path for path, _ in modules),
        classes=tuple(kind for _, kind in modules),
        callers=tuple(frames[index - 1][3] for index in forwards),
        bodies=tuple(frames[index][3] for index in forwards),
        inputs=tuple(value for value in node.input if value and value not in constants),
        outputs=tuple(value for value in node.output if value),
        arguments=frozenset(arguments),
        parameters=frozenset(targets[argument] for argument in arguments if argument in targets),
        constants=frozenset(value for value in node.input if value in constants and "." in value),
        line=":".join(frames[-1][:2]) if frames else "",
        is_known=bool(scopes),
    )
    merged = operation.merged_modules() if MERGED_NORM.fullmatch(metadata.get(RULES_KEY, "")) else frozenset()
    return replace(operation, merged=next(iter(merged))) if len(merged) == 1 else operation


def _pairs(scopes: Sequence[str], classes: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield path and class of each module; the last scope is the operation's own."""
    for index, path in enumerate(scopes[:-1]):
        yield path, classes[index] if len(classes) == len(scopes) else ""


@cache
def _strings(text: str) -> tuple[str, ...]:
    """Return the strings of a Python list; empty if `text` is anything else."""
    try:
        values = ast.literal_eval(text)
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return ()
    is_list = isinstance(values, list) and all(isinstance(value, str) for value in values)
    return tuple(values) if is_list else ()


def _forward_frames(frames: Sequence[Frame], depth: int) -> list[int]:
    """Return the indices of the frames of `depth` modules' forwards; none if frames and modules do not match."""
    forwards = [index for index, frame in enumerate(frames) if frame[2] == "forward"]
    return forwards[1:] if len(forwards) == depth + 1 else []


def _removed(
    operations: Sequence[Operation], constant: Sequence[Operation], targets: Mapping[str, str]
) -> Iterator[tuple[str, str]]:
    """Yield the operations of the program that the graph does not compute, with the paths of their modules if known.

    The graph computes constants once. Others name operations that were merged as arguments, and the numbers of the
    program's names have gaps where operations were left out.
    """
    present = {operation.name for operation in operations}.union(targets, *(each.outputs for each in operations))
    removed = [(each.name, each.scopes[-1]) for each in constant if each.scopes and each.name not in present]
    for operation in operations:
        missing = operation.arguments - present
        removed += [(name, owner) for name in missing for owner in operation.merged_modules() or {""}]
    yield from removed
    yield from ((name, "") for name in _gaps(present.union(name for name, _ in removed)))


def _gaps(names: Iterable[str]) -> Iterator[str]:
    """Yield the names that are missing in sequences such as `relu`, `relu_2`."""
    numbers: defaultdict[str, set[int]] = defaultdict(set)
    for name in names:
        base, number = numbered(name)
        numbers[base].add(number)
    for base, present in numbers.items():
        yield from (f"{base}_{number}" for number in range(max(present)) if number not in present)


def numbered(name: str) -> tuple[str, int]:
    """Return the base and the number of a name in the program: `relu` has the number 0, `relu_2` has 2."""
    match = NUMBERED.fullmatch(name)
    return (match[1], int(match[2] or 0)) if match else (name, 0)
