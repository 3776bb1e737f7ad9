"""Reads the names that the TorchScript exporter gives to nodes: `/layer1/layer1.0/conv1/Conv`.

Each part but the last is a module that was called: its name in its parent, preceded by the parent's if it is a number.
A parent that is not called, such as a ModuleDict, is missing. `_1` is appended for the second call of the innermost
module; but a module may be called `act_1` too. Parameters keep their full names, and decide where they can. The
exporter merges a norm into the convolution before it, which then has constants without a name, and merges
transpositions.
"""

import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from serve.repository.operations import Operation, Program

if TYPE_CHECKING:
    import onnx

CALL_NUMBER = re.compile(r"_\d+$")
NUMBER_IN_PARENT = re.compile(r"\.\d+$")
Scope = tuple[str, ...]
CONSTANTS = ("Constant", "Identity")  # an Identity shares a parameter
CONVOLUTIONS = ("Conv", "ConvTranspose")


def read_program(graph: "onnx.GraphProto") -> Program | None:
    """Return the program that the names of the nodes describe; None if they name no module."""
    nodes = [node for node in graph.node if node.op_type not in CONSTANTS]
    names = [tensor.name for tensor in graph.initializer]
    names += [value for node in graph.node if node.op_type in CONSTANTS for value in node.output]
    parameters = frozenset(name for name in names if "." in name and "/" not in name and "::" not in name)
    scopes = {node.name: _scope(node.name) for node in nodes}
    if not any(scopes.values()):
        return None
    reader = _ScopeReader(parameters, [(scopes[node.name], _owners(node, parameters)) for node in nodes])
    has_merged = any(_is_merged(node, parameters) for node in nodes)
    operations = [_operation(node, scopes[node.name], reader, parameters, has_merged=has_merged) for node in nodes]
    outputs = frozenset(info.name for info in graph.output)
    return Program(operations, outputs, outputs, has_source=False)


def _scope(name: str) -> Scope:
    """Return the parts of a node's name that are modules; none for a node of the network itself."""
    return tuple(name.split("/")[1:-1]) if name.startswith("/") else ()


def _owners(node: "onnx.NodeProto", parameters: frozenset[str]) -> frozenset[str]:
    return frozenset(value.rpartition(".")[0] for value in node.input if value in parameters)


def _is_merged(node: "onnx.NodeProto", parameters: frozenset[str]) -> bool:
    """Return whether a convolution has computed weights: then a norm is merged into it."""
    return node.op_type in CONVOLUTIONS and node.input[1] not in parameters


def _operation(
    node: "onnx.NodeProto",
    scope: Scope,
    reader: "_ScopeReader",
    parameters: frozenset[str],
    *,
    has_merged: bool,
) -> Operation:
    scopes = reader.paths(scope)
    is_merged = _is_merged(node, parameters)
    if has_merged and node.op_type == "BatchNormalization" and scopes:
        scopes[-1] = ""  # an earlier call of the norm may have been merged
    is_transposition = node.op_type == "Transpose" or any(
        attribute.name == "transA" and attribute.i for attribute in node.attribute
    )
    return Operation(
        name=node.name,
        kind=node.op_type,
        scopes=tuple(scopes),
        inputs=tuple(value for value in node.input if value),
        outputs=tuple(value for value in node.output if value),
        arguments=frozenset() if is_transposition else frozenset(node.input),
        parameters=frozenset(value for value in node.input if value in parameters),
        constants=frozenset(),
        classes=tuple(NUMBER_IN_PARENT.sub(".*", path) for path in scopes),  # numbered modules are usually of one class
        is_known=node.name.startswith("/"),
        is_certain=not is_merged,
        call="/".join(scope),
    )


class _ScopeReader:
    """Returns the paths of modules for the scopes of a file.

    Args:
        parameters: The names of the network's parameters and buffers.
        uses: For each node, its scope, and the modules whose parameters it reads.
    """

    def __init__(self, parameters: Iterable[str], uses: Sequence[tuple[Scope, frozenset[str]]]) -> None:
        self._modules = {name.rsplit(".", depth)[0] for name in parameters for depth in range(1, name.count(".") + 1)}
        self._scopes = {scope for scope, _ in uses}
        self._owners = {
            scope: owner
            for scope, owners in uses
            for owner in owners
            if scope and _own_name(owner) in (scope[-1], _without_number(scope)[-1])
        }
        self._incomplete = {scope[:-1] for scope, owner in self._owners.items() if owner not in self._candidates(scope)}

    def paths(self, scope: Scope) -> list[str]:
        """Return the paths of the modules of a scope, outermost first; empty ones where the path is uncertain."""
        return [self._path(scope[:depth]) for depth in range(1, len(scope) + 1)]

    def _candidates(self, scope: Scope) -> list[str]:
        """Return the path of the last module of a scope if all modules around it were called, read in both ways."""
        outer = ""
        for part in scope[:-1]:
            outer = _join(outer, part)
        return [_join(outer, scope[-1]), _join(outer, _without_number(scope)[-1])]

    def _path(self, scope: Scope) -> str:
        """Return the path of the last module of a scope; empty if it is uncertain."""
        if scope in self._owners:
            return self._owners[scope]
        path, without_number = self._candidates(scope)
        if path in self._modules:
            return path
        may_be_number = path != without_number and _without_number(scope) in self._scopes
        if may_be_number and without_number in self._modules:
            return without_number
        return "" if may_be_number or scope[:-1] in self._incomplete else path


def _without_number(scope: Scope) -> Scope:
    return (*scope[:-1], CALL_NUMBER.sub("", scope[-1]))


def _own_name(path: str) -> str:
    """Return the end of a path from the last part that is not a number."""
    parts = path.split(".")
    last = max((index for index, part in enumerate(parts) if not part.isdigit()), default=0)
    return ".".join(parts[last:])


def _join(outer: str, part: str) -> str:
    """Return the path of a module inside `outer`; a part such as `layer1.0` repeats the end of `outer`."""
    around, inside = outer.split("."), part.split(".")
    for length in range(len(inside) - 1, 0, -1):
        if around[-length:] == inside[:length]:
            return ".".join(around + inside[length:])
    return f"{outer}.{part}" if outer else part
