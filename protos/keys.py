"""Keys and values that the writer and the readers of a model share.

The `zoonnx.*` keys are metadata properties of model.onnx, parameters of config.pbtxt, or both.
"""

LAYERS_KEY = "zoonnx.layers"  # a LayerMap as JSON
LABELS_KEY = "zoonnx.labels"  # the class labels as a JSON list
PREPROCESSING_KEY = "zoonnx.preprocessing"  # a Preprocessing as JSON
MAX_MESSAGE_KEY = (
    "zoonnx.max_message_bytes"  # only in ModelConfig responses: the largest request of the server, in bytes
)
TASK_KEY = "zoonnx.task"  # only present, with the value MULTI_LABEL, if an image may have several labels
MULTI_LABEL = "multi-label"

BACKEND = "onnxruntime"  # the `backend` field of config.pbtxt

# Written by torch.onnx on each node: the paths and classes of the modules that contain it, each a Python list, the
# outermost first; the operation of the PyTorch program; where the program computes it; and how the optimiser made it.
NAME_SCOPES_KEY = "pkg.torch.onnx.name_scopes"
CLASSES_KEY = "pkg.torch.onnx.class_hierarchy"
PROGRAM_NODE_KEY = "pkg.torch.onnx.fx_node"
STACK_TRACE_KEY = "pkg.torch.onnx.stack_trace"
RULES_KEY = "pkg.onnxscript.rewriter.rule_name"
# Written by torch.onnx on the graph: the names of the program's inputs, parameters and outputs.
SIGNATURE_KEY = "pkg.torch.export.ExportedProgram.graph_signature"
