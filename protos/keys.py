"""Metadata keys that exported models and their readers share.

The `zoonnx.*` keys are metadata properties of model.onnx, parameters of config.pbtxt, or both.
"""

LAYERS_KEY = "zoonnx.layers"  # a LayerMap as JSON
LABELS_KEY = "zoonnx.labels"  # the class labels as a JSON list
PREPROCESSING_KEY = "zoonnx.preprocessing"  # a Preprocessing as JSON
TASK_KEY = "zoonnx.task"  # only present on a model whose images may have several labels: MULTI_LABEL
MULTI_LABEL = "multi-label"

# On each node, by torch.onnx: the paths of the modules around it as a Python list, outermost first.
NAME_SCOPES_KEY = "pkg.torch.onnx.name_scopes"
