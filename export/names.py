"""The names that a written model is read by: its files, its tensors, its metadata."""

CONFIG = "config.pbtxt"
LABELS = "labels.txt"
BACKEND = "onnxruntime"  # as config.pbtxt names it
MANIFEST = "manifest.json"
MODEL = "model.onnx"
WEIGHTS = "model.onnx.data"  # beside MODEL, where one file cannot hold all
TEST_DATA = "test_data_set_0"
EDGE_FILES = "files.json"  # beside the files for devices

LAYERS_KEY = "zoonnx.layers"
LABELS_KEY = "zoonnx.labels"
PREPROCESSING_KEY = "zoonnx.preprocessing"
TASK_KEY = "zoonnx.task"  # there for a model whose images may have several labels: MULTI_LABEL
MULTI_LABEL = "multi-label"

# The tensors of the graph: those of the network as converted, and those around it.
INPUT = "x"
LOGITS = "logits"
IMAGE, PROBABILITIES = "image", "probabilities"
BATCH, HEIGHT, WIDTH = "batch", "height", "width"  # dynamic dimensions
IMAGE_MEAN, IMAGE_SCALE = "image_mean", "image_scale"

# What the manifest says of a layer, but not the file: what was measured on the way.
MEASURED = ("max_abs_error", "reference_error", "tolerance", "shape_witnesses")


def layer_name(path: str, call: int, element: int) -> str:
    """Return `path`, with `@call` and `:element` where they are not 0."""
    return path + (f"@{call}" if call else "") + (f":{element}" if element else "")
