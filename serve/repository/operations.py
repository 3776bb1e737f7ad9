"""The operations of a graph that compute with the input, and the calls of modules that contain them.

What torch.onnx records of a PyTorch program is described here independently of the exporter that recorded it:
`program_metadata.py` and `scope_names.py` read the two formats.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx

SHAPE_OPERATIONS = ("Shape", "Size")
LAYERS_OF_TORCH = "torch.nn.modules."
CONTAINERS_OF_TORCH = ("container.", "activation.MultiheadAttention", "rnn.", "transformer.")


@dataclass(frozen=True)
class Operation:
    """One node of the graph that computes with the model's input.

    Attributes:
        name: Its name in the PyTorch program, to which `arguments` refer; empty if the exporter merged it with others.
        kind: What it computes, such as `aten.relu.default`.
        scopes: The paths of the modules that contain it, outermost first, without the network itself; empty where
            a path is uncertain.
        classes: The class names of these modules, or what else modules of one class have in common.
        callers: For each of these modules, the source line that called it; empty where unknown.
        bodies: For each of these modules, the source line in its forward; empty where unknown.
        inputs: The values of the graph that it reads.
        outputs: The values of the graph that it computes.
        arguments: What it read in the program, by name.
        parameters: The parameters and buffers that it read in the program, by their names in PyTorch.
        constants: The named constants of the file that it reads. These are parameters too, but the optimiser keeps one
            of several equal constants.
        line: The source line that computed it; empty where unknown.
        merged: The path of the layer that was merged into the operation, which is a norm behind it; empty if none was.
        is_known: Whether the exporter recorded the modules that contain it.
        is_certain: Whether its value is its own, and not that of an operation behind it which was merged into it.
        call: Tells calls of the innermost module apart; empty where unknown.
    """

    name: str
    kind: str
    scopes: tuple[str, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    arguments: frozenset[str]
    parameters: frozenset[str]
    constants: frozenset[str]
    classes: tuple[str, ...] = ()
    callers: tuple[str, ...] = ()
    bodies: tuple[str, ...] = ()
    line: str = ""
    merged: str = ""
    is_known: bool = True
    is_certain: bool = True
    call: str = ""

    def is_read_inside(self, path: str) -> bool:
        """Return whether the module at `path` contains what reads the inputs of the operation."""
        return f"{self.merged}.".startswith(f"{path}.") if self.merged else path in self.scopes

    def merged_parameters(self) -> frozenset[str]:
        """Return the parameters of the layer that was merged into the operation."""
        return frozenset(name for name in self.constants if name.startswith(f"{self.merged}.") and self.merged)

    def merged_modules(self) -> frozenset[str]:
        """Return the paths of other modules whose parameters it reads, because their operations were merged with it."""
        return _owners(self.constants) - _owners(self.parameters)


def _owners(parameters: Iterable[str]) -> frozenset[str]:
    return frozenset(parameter.rpartition(".")[0] for parameter in parameters)


@dataclass(frozen=True)
class Program:
    """The operations of a graph, and what is known of the PyTorch program around them.

    Attributes:
        operations: The operations in the order of the graph.
        all_outputs: The outputs of the graph.
        outputs: Those of them that the network certainly returns: the optimiser changed nothing behind them.
        removed: Names of operations of the program that the graph does not compute, with the path of a module that
            contains them; empty where that is unknown.
        has_source: Whether the operations have source lines and the names of classes.
    """

    operations: Sequence[Operation]
    all_outputs: frozenset[str]
    outputs: frozenset[str]
    removed: frozenset[tuple[str, str]] = frozenset()
    has_source: bool = True


def is_layer_of_torch(operation: Operation | None, index: int = -1) -> bool:
    """Return whether a module around an operation is a layer of torch.nn, which returns one tensor."""
    if operation is None or not operation.classes:
        return False
    kind = operation.classes[index]
    return kind.startswith(LAYERS_OF_TORCH) and not kind.removeprefix(LAYERS_OF_TORCH).startswith(CONTAINERS_OF_TORCH)


def computing_nodes(graph: "onnx.GraphProto") -> tuple[list["onnx.NodeProto"], list["onnx.NodeProto"]]:
    """Return the nodes whose output depends on more of the model's input than its shape, and all others."""
    dependent = {info.name for info in graph.input} - {tensor.name for tensor in graph.initializer}
    computing: list[onnx.NodeProto] = []
    constant: list[onnx.NodeProto] = []
    for node in graph.node:
        has_graph = any(attribute.HasField("g") for attribute in node.attribute)
        if node.op_type not in SHAPE_OPERATIONS and (has_graph or not dependent.isdisjoint(node.input)):
            dependent.update(node.output)
            computing.append(node)
        else:
            constant.append(node)
    return computing, constant
