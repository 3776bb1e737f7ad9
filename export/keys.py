"""The names that a written model is read by: its files, its tensors, its metadata."""

CONFIG = "config.pbtxt"
LABELS = "labels.txt"
MANIFEST = "manifest.json"
MODEL = "model.onnx"
WEIGHTS = "model.onnx.data"  # beside MODEL, where one file cannot hold all
TEST_DATA = "test_data_set_0"
EDGE_FILES = "files.json"  # beside the files for devices

LAYERS_KEY = "zoonnx.layers"
LABELS_KEY = "zoonnx.labels"
PREPROCESSING_KEY = "zoonnx.preprocessing"
TASK_KEY = "zoonnx.task"  # there for a model whose pictures may have several labels: MULTI_LABEL
MULTI_LABEL = "multi-label"

# What the manifest says of a layer, but not the file: what was measured on the way.
MEASURED = ("max_abs_error", "reference_error", "tolerance", "shape_witnesses")
