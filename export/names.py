"""Names of files, tensors and fields in a written model; those that the server reads too are in protos/."""

WEIGHTS = "model.onnx.data"  # external data beside MODEL, for weights that exceed one protobuf message
TEST_DATA = "test_data_set_0"
EDGE_FILES = "files.json"  # lists the files for devices

# Tensors of the graph: INPUT and LOGITS of the converted network, the others of the pre- and postprocessing around it.
INPUT = "x"
LOGITS = "logits"
IMAGE, PROBABILITIES = "image", "probabilities"
BATCH, HEIGHT, WIDTH = "batch", "height", "width"  # dynamic dimensions
SPATIAL = {2: HEIGHT, 3: WIDTH}  # by axis of the network's input
PART = "_part"  # ending of the name of a dimension of which height or width is a multiple
IMAGE_MEAN, IMAGE_SCALE = "image_mean", "image_scale"

# Measured fields of a layer: part of the manifest, but not of the model file.
MEASURED = ("max_abs_error", "reference_error", "tolerance", "shape_witnesses")
