"""In which modules a node of a converted graph was computed, as torch.onnx notes on it."""

import ast

import onnx

NAME_SCOPES = "pkg.torch.onnx.name_scopes"


def scopes_of(node: onnx.NodeProto) -> tuple[str, ...]:
    """Return the paths of the modules around `node`, outermost first; the network itself is ''."""
    for entry in node.metadata_props:
        if entry.key == NAME_SCOPES:
            return tuple(ast.literal_eval(entry.value))[:-1]
    return ()
