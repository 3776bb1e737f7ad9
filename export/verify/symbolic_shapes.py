"""Runs onnxruntime's symbolic shape inference step by step, because its own entry point writes to the current folder.

Requires: a model without the shapes that the exporter filled in.
Ensures: no file is written. If the inference fails at a node, only the shapes of earlier nodes are returned.
"""

import logging
from dataclasses import dataclass
from typing import Any

import onnx

UNBOUNDED = 2**31 - 1  # from here on, the end of a Slice means the end of the axis


@dataclass(frozen=True, eq=False)
class Inferred:
    """The result of the inference.

    Attributes:
        infos: The values with known shapes.
        failure: The node at which the inference failed, and the reason; empty if it is complete.
    """

    infos: list[onnx.ValueInfoProto]
    failure: str = ""


def infer(model: onnx.ModelProto) -> Inferred:
    """Infer the shapes of the values of `model`, which is not changed."""
    from onnxruntime.tools.symbolic_shape_infer import SymbolicShapeInference

    logging.getLogger("onnxruntime.tools.symbolic_shape_infer").setLevel(logging.CRITICAL)
    inference = SymbolicShapeInference(UNBOUNDED, auto_merge=False, guess_output_rank=False, verbose=0)
    inference._preprocess(model)
    failure = _run(inference)
    infos: dict[str, onnx.ValueInfoProto] = inference.known_vi_
    if not failure:
        return Inferred(_node_outputs(model, infos))
    node = _last_node(model, infos)
    before = {name: info for name, info in infos.items() if name not in node.output}
    return Inferred(
        _node_outputs(model, before), f"failed at '{node.name or node.op_type}' ({node.op_type}): {failure}"
    )


def _run(inference: Any) -> str:
    """Run the inference; return why it is incomplete, empty if it is complete."""
    try:
        complete = False
        while inference.run_:
            complete = inference._infer_impl()
    except Exception as error:  # noqa: BLE001 - onnxruntime raises errors of any type
        return " ".join(f"{type(error).__name__}: {error}".split())
    return "" if complete else "it cannot infer a size"


def _last_node(model: onnx.ModelProto, infos: dict[str, onnx.ValueInfoProto]) -> onnx.NodeProto:
    """Return the node at which the inference stopped: `infos` are in the order of the nodes."""
    producers = {name: node for node in model.graph.node for name in node.output}
    return next((producers[name] for name in reversed(infos) if name in producers), onnx.NodeProto())


def _node_outputs(model: onnx.ModelProto, infos: dict[str, onnx.ValueInfoProto]) -> list[onnx.ValueInfoProto]:
    return [infos[name] for node in model.graph.node for name in node.output if name in infos]
