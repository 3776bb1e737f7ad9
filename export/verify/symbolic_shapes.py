"""onnxruntime's symbolic shape inference, step by step: its own entry point leaves files in the current directory.

Requires: a model without the shapes that the exporter filled in.
Ensures: nothing is written anywhere. Where the inference gives up, what it knew before stands, each shape worked out
from the inputs alone; of the node at which it gave up nothing is said.
"""

import logging
from dataclasses import dataclass
from typing import Any

import onnx

BOUNDLESS = 2**31 - 1  # a slice's end from here on means the end of the axis


@dataclass(frozen=True, eq=False)
class Inferred:
    """The values whose shapes are known; `gave_up` says at which node no more could be told, and why."""

    infos: list[onnx.ValueInfoProto]
    gave_up: str = ""


def infer(model: onnx.ModelProto) -> Inferred:
    """Return what can be told of the shapes of `model`'s values; `model` itself stays as it is."""
    from onnxruntime.tools.symbolic_shape_infer import SymbolicShapeInference

    logging.getLogger("onnxruntime.tools.symbolic_shape_infer").setLevel(logging.CRITICAL)
    inference = SymbolicShapeInference(BOUNDLESS, auto_merge=False, guess_output_rank=False, verbose=0)
    inference._preprocess(model)
    why = _why_incomplete(inference)
    known: dict[str, onnx.ValueInfoProto] = inference.known_vi_
    if not why:
        return Inferred(_computed(model, known))
    last = _last_node(model, known)
    kept = {name: info for name, info in known.items() if name not in last.output}
    return Inferred(_computed(model, kept), f"it gave up at '{last.name or last.op_type}' ({last.op_type}): {why}")


def _why_incomplete(inference: Any) -> str:
    """Run the inference until it is done; return why it is not complete, or nothing."""
    try:
        complete = False
        while inference.run_:
            complete = inference._infer_impl()
    except Exception as error:  # noqa: BLE001 - whatever breaks down there
        return " ".join(f"{type(error).__name__}: {error}".split())
    return "" if complete else "a size that it cannot work out"


def _last_node(model: onnx.ModelProto, known: dict[str, onnx.ValueInfoProto]) -> onnx.NodeProto:
    """The node that was being looked at: what is known is in the order of the nodes."""
    made_by = {name: node for node in model.graph.node for name in node.output}
    return next((made_by[name] for name in reversed(known) if name in made_by), onnx.NodeProto())


def _computed(model: onnx.ModelProto, known: dict[str, onnx.ValueInfoProto]) -> list[onnx.ValueInfoProto]:
    return [known[name] for node in model.graph.node for name in node.output if name in known]
