"""Reads the modules that contain a node of a converted graph, from the metadata that torch.onnx writes."""

import ast

import onnx

from protos.keys import NAME_SCOPES_KEY


def module_scopes(node: onnx.NodeProto) -> tuple[str, ...]:
    """Return the paths of the modules that contain `node`, outermost first; the path of the network itself is ''."""
    for entry in node.metadata_props:
        if entry.key == NAME_SCOPES_KEY:
            return tuple(ast.literal_eval(entry.value))[:-1]
    return ()
