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

# Written by torch.onnx on each node: the paths of the modules that contain it, a Python list, outermost first.
NAME_SCOPES_KEY = "pkg.torch.onnx.name_scopes"
